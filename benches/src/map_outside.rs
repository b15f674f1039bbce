//! The contestants of the map table that are programs of their own: Boost.Interprocess (C++), Python's `Manager().dict`.
//!
//! Both do the same phases with the same keys, and print one line of numbers.

use crate::maps::{NAMES, Plan};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cpp/interprocess.cpp");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/manager_dict.py");

/// Runs `command`, and reads the numbers that it prints. One that hangs is killed.
fn numbers(mut command: Command) -> Result<Vec<f64>, String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    let patience = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) => break status,
            None if Instant::now() > patience => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("it hung for a minute".into());
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let mut text = String::new();
    child.stdout.take().ok_or("no output")?.read_to_string(&mut text).map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("it ended with {status}"));
    }
    let found: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    if found.len() == NAMES.len() { Ok(found) } else { Err(format!("it printed {text:?}")) }
}

fn with_plan(command: &mut Command, plan: &Plan, kind: &str, n: usize) {
    let ms = |i: usize| plan.limits[i].as_millis().to_string();
    command.args([kind, &n.to_string(), &plan.parties.to_string(), &ms(0), &ms(1)]);
}

/// `boost::unordered_map` behind an `interprocess_mutex` in shared memory: the C++ answer. Not safe against kills.
pub struct Boost(PathBuf);

impl Boost {
    /// Compiles it, if it was not yet, and if compiler and headers are here.
    pub fn build() -> Result<Self, String> {
        let program =
            std::env::current_exe().map_err(|e| e.to_string())?.with_file_name("bench-interprocess");
        let changed = |path: &std::path::Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        let is_new = changed(&program).is_some_and(|built| Some(built) > changed(SOURCE.as_ref()));
        if !is_new {
            let mut command = Command::new("g++");
            command.args(["-O2", "-std=c++17", "-pthread", SOURCE, "-lrt", "-o"]).arg(&program);
            let output = command.output().map_err(|_| "there is no g++".to_owned())?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr);
                let why = text.lines().find(|line| line.contains("error")).unwrap_or("it does not compile");
                return Err(why.trim().to_owned());
            }
        }
        Ok(Self(program))
    }

    /// One run.
    pub fn run(&self, plan: &Plan, kind: &str, n: usize) -> Result<Vec<f64>, String> {
        let mut command = Command::new(&self.0);
        with_plan(&mut command, plan, kind, n);
        numbers(command)
    }
}

/// Which Python is here.
pub fn python_version() -> Result<String, String> {
    let output = Command::new("python3").arg("--version").output().ok().filter(|o| o.status.success());
    let output = output.ok_or("python3 is not here")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// One run of `Manager().dict()`.
pub fn manager(plan: &Plan, kind: &str, n: usize) -> Result<Vec<f64>, String> {
    let mut command = Command::new("python3");
    command.arg(SCRIPT);
    with_plan(&mut command, plan, kind, n);
    numbers(command)
}
