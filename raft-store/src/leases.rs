//! Leases: when a group's leader may forget a logic node (design.md §3.3, §3.4).
//!
//! Pure: time is an argument (`CLOCK_BOOTTIME`, which counts suspend). Whether a lease *exists* is replicated
//! state and asked for by the caller; this only knows when each was last renewed. One per group and leadership.
//!
//! ```text
//! renewal ── ReadIndex ── row exists, not marked ── note(now) ── answer
//! tick    ── LEASE_GRANT_MS since the note ── mark, refuse renewals ── propose ExpireLease under this leadership
//! ```
//!
//! # Invariants
//! I3: a lease is marked only when its holder has surely stopped: the grant is longer than the hold by more than
//! the drift of two clocks, every lease counts anew under a new leader, and the lateness of the tick is added.

use std::collections::BTreeMap;
use std::time::Duration;

use seriatim_proto::ids::LeaseId;
use seriatim_proto::limits;

/// Time since boot, suspend included.
pub(crate) type BootMs = u64;

/// The notes of one leadership.
#[derive(Debug, Default)]
pub(crate) struct LeaseNotes {
    notes: BTreeMap<LeaseId, Note>,
    last_tick: Option<BootMs>,
}

#[derive(Debug, Clone, Copy)]
struct Note {
    renewed_at: BootMs,
    marked: bool,
}

impl LeaseNotes {
    /// A leadership begins at its first [`LeaseNotes::tick`]: all leases count from then.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A renewal whose lease was found to exist after a ReadIndex. `false`: it is marked, the answer is `Gone`.
    pub(crate) fn renew(&mut self, now: BootMs, lease: LeaseId) -> bool {
        let note = self.notes.entry(lease).or_insert(Note { renewed_at: now, marked: false });
        if note.marked {
            return false;
        }
        note.renewed_at = note.renewed_at.max(now);
        true
    }

    /// Looks at all leases that exist. Returns those to be ended; each is marked and refused from now on, and is
    /// returned again at every tick until it is gone.
    pub(crate) fn tick(&mut self, now: BootMs, existing: &[LeaseId]) -> Vec<LeaseId> {
        // A tick that comes late says that this process slept, and renewals may have waited as long.
        let late = match self.last_tick {
            Some(last) => now.saturating_sub(last).saturating_sub(TICK_MS),
            None => 0,
        };
        self.last_tick = Some(now);
        let mut kept = BTreeMap::new();
        let mut expired = Vec::new();
        for lease in existing {
            let mut note = self.notes.get(lease).copied().unwrap_or(Note { renewed_at: now, marked: false });
            if !note.marked {
                note.renewed_at = note.renewed_at.saturating_add(late).min(now);
                note.marked = now.saturating_sub(note.renewed_at) >= limits::LEASE_GRANT_MS;
            }
            if note.marked {
                expired.push(*lease);
            }
            kept.insert(*lease, note);
        }
        self.notes = kept;
        expired
    }

    /// Has a lease missed a renewal, so that it may be about to expire?
    pub(crate) fn has_doubtful(&self, now: BootMs) -> bool {
        self.notes.values().any(|note| note.marked || now.saturating_sub(note.renewed_at) > DOUBT_MS)
    }
}

/// Period of the tick.
pub(crate) const TICK: Duration = Duration::from_millis(TICK_MS);
const TICK_MS: u64 = 50;
/// A lease that was not renewed for this long has missed a renewal.
const DOUBT_MS: u64 = 2 * limits::LEASE_RENEW_MS;

#[cfg(test)]
mod tests {
    use super::*;
    use seriatim_proto::ids::{Generation, LogIndex};

    fn lease(index: u64) -> LeaseId {
        LeaseId { generation: Generation(0), index: LogIndex(index), place: 0 }
    }

    /// Ticks in time until `end`; answers when `lease` was first marked.
    fn run(notes: &mut LeaseNotes, from: BootMs, end: BootMs, existing: &[LeaseId]) -> Option<BootMs> {
        (from..=end).step_by(TICK_MS as usize).find(|now| !notes.tick(*now, existing).is_empty())
    }

    #[test]
    fn a_lease_expires_when_nobody_renews_it() {
        let mut notes = LeaseNotes::new();
        let marked = run(&mut notes, 1_000, 9_000, &[lease(1)]);
        assert_eq!(marked, Some(1_000 + limits::LEASE_GRANT_MS));
        assert!(!notes.renew(4_000, lease(1)), "a marked lease is refused");
        assert_eq!(notes.tick(4_050, &[lease(1)]), [lease(1)], "asked for again until it is gone");
        assert!(notes.tick(4_100, &[]).is_empty());
    }

    #[test]
    fn a_lease_is_in_doubt_from_its_first_missed_renewal_until_it_is_gone() {
        let mut notes = LeaseNotes::new();
        notes.tick(10_000, &[lease(1)]);
        assert!(notes.renew(10_000, lease(1)));
        assert!(!notes.has_doubtful(10_000 + DOUBT_MS));
        assert!(notes.has_doubtful(10_001 + DOUBT_MS));
        run(&mut notes, 10_050, 10_000 + limits::LEASE_GRANT_MS, &[lease(1)]);
        assert!(notes.has_doubtful(10_000 + limits::LEASE_GRANT_MS));
        notes.tick(12_050, &[]);
        assert!(!notes.has_doubtful(12_050));
    }

    #[test]
    fn a_renewed_lease_lives() {
        let mut notes = LeaseNotes::new();
        for step in 0..100 {
            let now = step * TICK_MS * 8;
            assert!(notes.renew(now, lease(1)));
            assert_eq!(run(&mut notes, now, now + 7 * TICK_MS, &[lease(1)]), None);
        }
    }

    #[test]
    fn a_late_tick_is_added_to_every_lease() {
        let mut notes = LeaseNotes::new();
        notes.renew(0, lease(1));
        assert_eq!(run(&mut notes, 0, 1_000, &[lease(1)]), None);
        // The process slept for five seconds: the lease gets them on top.
        assert!(notes.tick(6_000, &[lease(1)]).is_empty());
        let marked = run(&mut notes, 6_050, 20_000, &[lease(1)]);
        assert_eq!(marked, Some(4_950 + limits::LEASE_GRANT_MS));
    }

    #[test]
    fn a_new_leader_counts_from_the_beginning() {
        let mut notes = LeaseNotes::new();
        assert_eq!(run(&mut notes, 50_000, 51_950, &[lease(1), lease(2)]), None);
        assert_eq!(run(&mut notes, 52_000, 52_000, &[lease(1), lease(2)]), Some(52_000));
    }
}
