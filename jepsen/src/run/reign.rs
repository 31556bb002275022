//! Reign: who leads, looked at again and again while faults are kept apart, so that a report can tell what a fault
//! moved. In a mix nobody could tell whose doing a change was, and each look costs a process.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::counters::Counters;
use crate::cluster::{Cluster, Role};
use crate::history::{HistoryWriter, LEADERS_FILE, Leader, Leaders};
use crate::workload::Clock;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);

/// Where looks are written down.
#[derive(Debug)]
pub(super) struct Reign {
    file: HistoryWriter,
}

impl Reign {
    /// Of a run in this folder.
    pub(super) fn create(folder: &Path) -> io::Result<Reign> {
        Ok(Reign { file: HistoryWriter::create(&folder.join(LEADERS_FILE))? })
    }

    /// Looks until a look cannot be written down; counts what nodes count on the way.
    pub(super) async fn watch(&self, cluster: &Cluster, counters: &Counters, clock: Clock) -> io::Result<()> {
        loop {
            let call = clock.now();
            let (leaderships, answered) = tokio::join!(cluster.leaderships(), counters.look(cluster));
            let groups = leaderships.into_iter();
            let groups = groups.map(|(group, led)| (group, Leader { store: led.store, term: led.term })).collect();
            let all_answered = cluster.names(Role::Logic).iter().all(|name| answered.contains(name));
            let claims = all_answered.then(|| counters.claims());
            self.file.write(&Leaders { call, ret: clock.now(), groups, claims })?;
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// All looks are on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}
