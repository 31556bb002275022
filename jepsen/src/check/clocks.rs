//! Clocks: when a clock was further off than leases allow for. Then two holders may answer for one counter at once, each
//! from its memory; `Next` and `Current` are the only ones whose order may suffer (I2), and only of what was answered
//! in that time. That a number is given out once (I1) rests on no clock.

use std::collections::BTreeMap;
use std::path::Path;

use seriatim_proto::limits;

use super::order::{Breach, Placed};
use crate::history::{Act, Effect, Fault, LineError, NEMESIS_FILE, for_each_line};
use crate::nemesis::BOOT_BEYOND;

/// How long a holder may go on behind the end of a fault: its clock is true again and counts the rest of its lease.
const TAIL_NS: u64 = limits::LEASE_GRANT_MS * 1_000_000;

/// Times in which some clock was too far off.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct BentClocks {
    times: Vec<(u64, u64)>,
}

impl BentClocks {
    /// Of a run's folder; none if it has no file of faults.
    pub(crate) fn read(folder: &Path) -> Result<BentClocks, LineError> {
        let path = folder.join(NEMESIS_FILE);
        let mut open: BTreeMap<u64, u64> = BTreeMap::new();
        let mut times = Vec::new();
        if path.exists() {
            for_each_line(&path, |_, fault: Fault| match fault.act {
                _ if fault.kind != BOOT_BEYOND => {}
                // One of which nobody knows may have taken effect.
                Act::Inject if fault.effect != Effect::Skipped => drop(open.insert(fault.number, fault.began)),
                Act::Inject => {}
                Act::Heal => times.extend(open.remove(&fault.number).map(|began| (began, fault.ended + TAIL_NS))),
            })?;
        }
        times.extend(open.into_values().map(|began| (began, u64::MAX)));
        Ok(BentClocks { times })
    }

    /// Were both answered while a clock was too far off?
    pub(crate) fn excuse<T>(&self, breach: &Breach<T>) -> bool {
        let within = |one: &Placed<T>, (from, to): (u64, u64)| one.call <= to && one.ret >= from;
        self.times.iter().any(|time| within(&breach.low, *time) && within(&breach.high, *time))
    }
}
