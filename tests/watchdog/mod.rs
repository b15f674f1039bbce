//! A test that hangs ends with a name, instead of with the patience of whoever started it.

use std::{sync::mpsc, time::Duration};

/// Far beyond what a test takes on any machine: not a promise about speed.
const PATIENCE: Duration = Duration::from_secs(300);

/// Ends the process if it is not dropped in time.
pub(crate) struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    pub(crate) fn new(test: &'static str) -> Self {
        let (alive, gone) = mpsc::channel();
        std::thread::spawn(move || {
            if gone.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}
