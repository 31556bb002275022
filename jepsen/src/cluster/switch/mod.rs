//! Switch: joins the links of a cluster's nodes in user space, so that what a kernel without netem cannot do to packets
//! can be done: delay, jitter, duplication, reordering, corruption; and, for there is no bridge then, cuts and rates.
//!
//! ```text
//!  node ══ eth0 (TAP in the node's namespace) ── fd ─┐
//!  node ══ eth0                               ── fd ─┼─ one thread: poll ─▶ Fabric (pure) ─▶ write
//!  harness ══ sj<pid>ah (TAP)                 ── fd ─┘
//! ```
//! TAPs are made without offloads and vnet headers: the kernel sums and segments what it hands over, and checks what it
//! is given. So a frame that was spoiled here is found out there (`InCsumErrors`).
//!
//! # Failure
//! The TAPs live as long as their descriptors: a harness that ends, however it ends, leaves none.
//!
//! # Reading order
//! `fabric` → `lane` → `frame` → `relay` → [`Switch`].

mod fabric;
mod frame;
mod lane;
mod relay;

use std::collections::BTreeSet;
use std::io::PipeWriter;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

pub use fabric::Direction;
pub use lane::{Trouble, Troubled};

pub(crate) use fabric::{CutId, Port};
pub(crate) use lane::TroubleId;

use fabric::Fabric;
use relay::Relay;

/// A node's interface, seen from our side: what it sends is read here, what is written here it gets.
pub(crate) struct Tap(SyncDevice);

impl Tap {
    /// Makes one in the namespace of now. It may be moved to another: its frames come here all the same.
    pub(crate) fn make(name: &str) -> anyhow::Result<Tap> {
        let made = DeviceBuilder::new().name(name).layer(Layer::L2).inherit_enable_state().build_sync();
        let device = made.with_context(|| format!("make the TAP {name}"))?;
        device.set_nonblocking(true).with_context(|| format!("set up the TAP {name}"))?;
        Ok(Tap(device))
    }
}

/// A running switch.
#[derive(Debug)]
pub(crate) struct Switch {
    fabric: Arc<Mutex<Fabric>>,
    /// The thread ends when this is dropped.
    running: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Joins these; the place of each is its port.
    pub(crate) fn start(taps: Vec<Tap>, seed: u64) -> anyhow::Result<Switch> {
        let fabric = Arc::new(Mutex::new(Fabric::new(taps.len(), seed)));
        let (stop, running) = std::io::pipe().context("make a pipe")?;
        let relay = Relay { fabric: Arc::clone(&fabric), taps, stop };
        let thread = std::thread::Builder::new().name("switch".to_owned()).spawn(|| relay.run());
        Ok(Switch { fabric, running: Some(running), thread: Some(thread.context("start a thread")?) })
    }

    /// One more trouble of a link's directions.
    pub(crate) fn trouble(&self, port: Port, directions: &[Direction], trouble: Trouble) -> TroubleId {
        self.fabric.lock().trouble(port, directions, trouble)
    }

    /// What it did so far.
    pub(crate) fn troubled(&self, id: TroubleId) -> Troubled {
        self.fabric.lock().troubled(id)
    }

    /// Ends it; answers what it did.
    pub(crate) fn calm(&self, id: TroubleId) -> Troubled {
        self.fabric.lock().calm(id)
    }

    /// Drops so many percent of what goes from the first to the second of these.
    pub(crate) fn cut(&self, pairs: BTreeSet<(Port, Port)>, percent: u8) -> CutId {
        self.fabric.lock().cut(pairs, percent)
    }

    /// Frames that a cut dropped so far.
    pub(crate) fn dropped(&self, id: CutId) -> anyhow::Result<u64> {
        self.fabric.lock().dropped(id).context("read the counter of a cut: it was mended")
    }

    /// Ends a cut.
    pub(crate) fn mend(&self, id: CutId) {
        self.fabric.lock().mend(id);
    }

    /// What a port is sent comes at so many kbit/s at most; `None`: as fast as it goes.
    pub(crate) fn set_rate(&self, port: Port, kbit: Option<u32>) {
        self.fabric.lock().lane(port, Direction::ToNode).set_rate(kbit);
    }

    /// Frames that the rate held back or dropped.
    pub(crate) fn held_back(&self, port: Port) -> u64 {
        self.fabric.lock().lane(port, Direction::ToNode).held_back()
    }

    /// Pulls a plug, or plugs it again.
    pub(crate) fn set_pulled(&self, port: Port, pulled: bool) {
        let mut fabric = self.fabric.lock();
        Direction::BOTH.iter().for_each(|direction| fabric.lane(port, *direction).set_pulled(pulled));
    }

    /// Is the plug out?
    pub(crate) fn is_pulled(&self, port: Port) -> bool {
        let mut fabric = self.fabric.lock();
        Direction::BOTH.iter().all(|direction| fabric.lane(port, *direction).is_pulled())
    }

    /// An error if its thread has ended: nothing reaches anybody then.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the switch has ended");
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.running = None;
        let ended = self.thread.take().map(JoinHandle::join);
        if !matches!(ended, Some(Ok(()))) {
            tracing::warn!("the switch panicked");
        }
        let overflowed = self.fabric.lock().overflowed();
        if overflowed > 0 {
            tracing::warn!(overflowed, "frames dropped because too many waited in the switch");
        }
    }
}

#[cfg(test)]
mod tests;
