//! Reserve: at most one fault at a time works on a node's process or files, so that no healing undoes another's fault.
//!
//! Faults of the network reserve nothing: they overlap with everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Cluster;

/// Names of reserved nodes.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    names: Mutex<BTreeSet<String>>,
}

/// Nodes that nobody else may hurt until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    names: Vec<String>,
    reserved: Arc<Reserved>,
}

impl Reservation {
    /// Which.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.reserved.names.lock();
        for name in &self.names {
            held.remove(name);
        }
    }
}

impl Cluster {
    /// Reserves all of these, or none if one is taken.
    pub fn reserve(&self, names: &[String]) -> Option<Reservation> {
        let reserved = Arc::clone(&self.inner.reserved);
        let mut held = reserved.names.lock();
        if names.iter().any(|name| held.contains(name)) {
            return None;
        }
        held.extend(names.iter().cloned());
        drop(held);
        Some(Reservation { names: names.to_vec(), reserved })
    }

    /// The one store whose files may be damaged: who was named first.
    pub(crate) fn frail(&self, named: &str) -> &str {
        self.inner.frail.get_or_init(|| named.to_owned())
    }

    /// Is a fault at work on it?
    pub fn is_reserved(&self, name: &str) -> bool {
        self.inner.reserved.names.lock().contains(name)
    }
}
