//! Process: a client as histories know it: one operation at a time, and a new number after an unknown outcome.
//!
//! An operation whose outcome is unknown stays open for ever, so its process may never call again. The task behind it
//! goes on as another process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Gives out numbers of processes.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    next: AtomicU64,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    number: u64,
    processes: Arc<Processes>,
}

impl Processes {
    /// A new process.
    pub(crate) fn begin(self: &Arc<Self>) -> Process {
        Process { number: self.take(), processes: Arc::clone(self) }
    }

    fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl Process {
    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Its last operation stays open: from now on this is another one.
    pub(crate) fn renew(&mut self) {
        self.number = self.processes.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_processes_have_one_number() {
        let processes = Arc::new(Processes::default());
        let (mut one, other) = (processes.begin(), processes.begin());
        let before = one.number();
        one.renew();
        assert_ne!(one.number(), before);
        assert_ne!(one.number(), other.number());
    }
}
