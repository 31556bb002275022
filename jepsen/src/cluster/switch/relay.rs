//! Relay: the switch's one thread: waits for frames and times, and does what its fabric says.
//!
//! It never spins: it sleeps until a TAP has a frame, a frame's time has come, or the switch is dropped.

use std::io::PipeReader;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Tap;
use super::fabric::{Fabric, Port};
use super::frame::Frame;

/// Longest frame, with room for a tag.
const FRAME_BYTES_MAX: usize = 2_048;
/// Frames taken from one TAP before the others have their turn.
const BURST: usize = 16;

/// What the thread owns.
pub(super) struct Relay {
    pub(super) fabric: Arc<Mutex<Fabric>>,
    /// by port
    pub(super) taps: Vec<Tap>,
    /// readable once the switch is dropped
    pub(super) stop: PipeReader,
}

impl Relay {
    pub(super) fn run(self) {
        let mut fds: Vec<PollFd<'_>> =
            self.taps.iter().map(|tap| PollFd::from_borrowed_fd(tap.0.as_fd(), PollFlags::IN)).collect();
        fds.push(PollFd::new(&self.stop, PollFlags::IN));
        let mut out: Vec<(Port, Frame)> = Vec::new();
        loop {
            let timeout = self.fabric.lock().poll_timeout().map(until);
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return tracing::error!(%error, "the switch cannot wait for frames"),
            }
            if fds.last().is_some_and(|stop| !stop.revents().is_empty()) {
                return;
            }
            if fds.iter().any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)) {
                return tracing::error!("somebody took a TAP from the switch");
            }
            let ready = fds.iter().take(self.taps.len()).map(|fd| fd.revents().contains(PollFlags::IN));
            let ready: Vec<bool> = ready.collect();
            self.take(&ready, &mut out);
            // Not under the lock: a write runs the receiver's whole stack.
            for (port, frame) in out.drain(..) {
                // A full or lost interface drops it, as a cable would.
                let _ = self.taps[port.0].0.send(&frame);
            }
        }
    }

    /// Takes what has come, and adds to `out` what is to leave.
    fn take(&self, ready: &[bool], out: &mut Vec<(Port, Frame)>) {
        let mut buffer = [0; FRAME_BYTES_MAX];
        let mut fabric = self.fabric.lock();
        for (port, tap) in self.taps.iter().enumerate().filter(|(port, _)| ready[*port]) {
            for _ in 0..BURST {
                let Ok(length) = tap.0.recv(&mut buffer) else { break };
                fabric.handle_frame(Instant::now(), Port(port), buffer[..length].to_vec());
            }
        }
        fabric.handle_timeout(Instant::now());
        out.extend(std::iter::from_fn(|| fabric.poll_transmit()));
    }
}

fn until(due: Instant) -> Timespec {
    Timespec::try_from(due.saturating_duration_since(Instant::now())).expect("a frame waits for seconds at most")
}
