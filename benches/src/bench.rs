//! allmend and its peers, side by side in one run; prints markdown tables and, per goal of the project, met or not met.
//!
//! ```text
//! cargo run --release -p allmend-benches [-- [--quick] [--only TABLE,..] [--repetitions N] [--run-ms N]]
//! ```
//!
//! Speed never fails the run: a busy machine would. A wrong count or a hung process does.

mod arrays;
mod harness;
mod locks;
mod map_ours;
mod map_outside;
mod map_peers;
mod maps;
mod ours;
mod peers;
mod pools;
mod python;
mod segments;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A bare spawn measures the birth and death of a process, not what we do in it.
    if std::env::args_os().nth(1).is_some_and(|arg| arg.as_encoded_bytes() == peers::EXIT_AT_ONCE.to_bytes())
    {
        return ExitCode::SUCCESS;
    }
    // A worker of procspawn never returns from here. One of ours never comes to `main`.
    procspawn::ProcConfig::new().pass_args(false).init();

    let settings = match harness::Settings::parse(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(e) => {
            eprintln!(
                "{e}\nusage: [--quick] [--only TABLE,..] [--repetitions N] [--run-ms N]\ntables: {}",
                harness::TABLES.join(", ")
            );
            return ExitCode::from(2);
        }
    };
    harness::print_conditions(&settings);
    let bystanders = harness::Bystanders::watch();
    let mut goals = harness::Goals::default();
    // All that forks comes before all that starts threads.
    if settings.wants("uncontended") {
        locks::uncontended(&settings, &mut goals);
    }
    if settings.wants("read") {
        locks::read(&settings, &mut goals);
    }
    if settings.wants("contended") {
        locks::contended(&settings, &mut goals);
    }
    if settings.wants("map") {
        maps::table(&settings, &mut goals);
    }
    if settings.wants("segments") {
        segments::table(&settings, &mut goals);
    }
    if settings.wants("arrays") {
        arrays::table(&settings, &mut goals);
    }
    if settings.wants("pool") {
        pools::tables(&settings, &mut goals);
    }
    if settings.wants("python") {
        python::table(&settings);
    }
    goals.print(bystanders.print());
    ExitCode::SUCCESS
}
