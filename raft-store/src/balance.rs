//! Balance: leaders end up spread over the stores, and only when nothing else is going on.
//!
//! Each group prefers one of its stores (`core/src/plan.rs`). A new group's other stores let it stand first (`host.rs`); later,
//! after a failure, leadership goes back. That costs the group a moment without a leader, and a new leader counts
//! all leases from the beginning, so it waits until the group was calm for a while: the preferred store has
//! answered and followed closely, and no logic node is about to lose a lease.
//!
//! Pure: time is an argument, and what is calm is the caller's to say.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use seriatim_proto::ids::GroupId;

/// A group that this store leads and another one should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Led {
    /// which
    pub(crate) group: GroupId,
    /// the term that it is led in
    pub(crate) term: u64,
    /// could it be given away now without anybody noticing much?
    pub(crate) calm: bool,
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    /// since when each group is calm, under which term
    calm: BTreeMap<GroupId, (u64, Instant)>,
}

impl Balance {
    /// Looks at all groups that are led here and should not be. Answers the one to give away now: one at a look.
    pub(crate) fn look(&mut self, now: Instant, led: impl Iterator<Item = Led>) -> Option<GroupId> {
        let before = std::mem::take(&mut self.calm);
        for Led { group, term, .. } in led.filter(|led| led.calm) {
            let since = before.get(&group).filter(|(before, _)| *before == term).map_or(now, |(_, since)| *since);
            self.calm.insert(group, (term, since));
        }
        let due = |(_, since): &(u64, Instant)| now.saturating_duration_since(*since) >= SETTLE;
        let group = self.calm.iter().find(|(_, calm)| due(calm)).map(|(group, _)| *group)?;
        // If it does not work, the next attempt waits as long.
        self.calm.remove(&group);
        Some(group)
    }
}

/// How long a group must have been calm.
const SETTLE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn led(group: u32, term: u64, calm: bool) -> Led {
        Led { group: GroupId(group), term, calm }
    }

    /// Looks once a second; answers in which second which group was given away.
    fn looks(balance: &mut Balance, seconds: u64, led_at: impl Fn(u64) -> Vec<Led>) -> Vec<(u64, u32)> {
        let begin = Instant::now();
        let look = |second| {
            let now = begin + Duration::from_secs(second);
            balance.look(now, led_at(second).into_iter()).map(|group| (second, group.0))
        };
        (0..seconds).filter_map(look).collect()
    }

    #[test]
    fn a_group_is_given_away_after_it_was_calm_for_a_while() {
        let given = looks(&mut Balance::default(), 25, |_| vec![led(1, 3, true)]);
        assert_eq!(given, [(10, 1), (21, 1)], "again only as long after an attempt that did not work");
    }

    #[test]
    fn unrest_or_a_new_leadership_begins_anew() {
        let given = looks(&mut Balance::default(), 20, |second| vec![led(1, 3, second != 5)]);
        assert_eq!(given, [(16, 1)]);
        let given = looks(&mut Balance::default(), 20, |second| vec![led(1, if second < 5 { 3 } else { 4 }, true)]);
        assert_eq!(given, [(15, 1)]);
        let given =
            looks(&mut Balance::default(), 20, |second| if second == 5 { vec![] } else { vec![led(1, 3, true)] });
        assert_eq!(given, [(16, 1)]);
    }

    #[test]
    fn one_group_at_a_look() {
        let given = looks(&mut Balance::default(), 13, |_| vec![led(1, 1, true), led(2, 1, true), led(3, 1, true)]);
        assert_eq!(given, [(10, 1), (11, 2), (12, 3)]);
    }
}
