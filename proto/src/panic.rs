//! A panic ends the whole process, in every program of ours.
//!
//! A broken invariant must stop a store before the outcome leaves it, and a runtime that catches the panic of one task
//! and goes on would hide it. The profile's `panic = "abort"` does the same, and has every dependency built twice: the
//! test harness needs them unwinding.

/// From here on a panic on any thread is printed and then aborts the process (SIGABRT), before anything unwinds.
/// The first line of each `main`.
pub fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const CHILD: &str = "SERIATIM_TEST_PANIC_CHILD";

    #[test]
    fn a_panic_of_any_thread_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            abort_on_panic();
            let thread = std::thread::spawn(|| panic!("a rule is broken"));
            println!("joined: {}", thread.join().is_err());
            return;
        }
        let test = "panic::tests::a_panic_of_any_thread_ends_the_process";
        let child = std::env::current_exe()
            .and_then(|program| Command::new(program).args(["--exact", test, "--nocapture"]).env(CHILD, "1").output());
        let child = child.unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.signal(), Some(6), "{:?}: {said}", child.status);
        assert!(said.contains("a rule is broken"), "{said}");
        assert!(!String::from_utf8_lossy(&child.stdout).contains("joined"), "the process went on");
    }
}
