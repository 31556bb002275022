//! Descriptors: a process takes as many as it may, and says how many it holds.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::common::{SERIATIM, metric};

/// A store under a soft and a hard limit of descriptors; ends with the test.
struct Limited(Child, String);

impl Limited {
    fn start(limits: &str, folder: &std::path::Path) -> Limited {
        let mut child = Command::new("prlimit")
            .arg(format!("--nofile={limits}"))
            .args([SERIATIM, "store", "--insecure-plaintext", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it is ready: {line:?}"));
        Limited(child, ready["metrics"].as_str().unwrap().to_owned())
    }

    fn says(&self, name: &str) -> f64 {
        metric(&self.1, name).unwrap_or_else(|| panic!("{name} is said"))
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_store_raises_its_limit_of_descriptors_and_says_how_many_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let store = Limited::start("64:512", folder.path());
    assert_eq!(store.says("seriatim_process_max_fds"), 512.0);
    let open = store.says("seriatim_process_open_fds");
    assert!((10.0..512.0).contains(&open), "{open}");
    // Who asks holds one more.
    let _held: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(&store.1).unwrap()).collect();
    crate::common::wait_until("connections are counted", || store.says("seriatim_process_open_fds") >= open + 20.0);
}
