//! Clock: is this machine's wall clock one to go by?
//!
//! ```text
//! every ten seconds ──▶ what time is it? ──▶ all other stores ──▶ doubted: a majority was heard, and shows another time
//! trim by age       ──▶ what time is it? ──▶ the group's voters ─▶ sure: a majority shows about the same
//! ```
//! Times are for people: no order, no dedupe and no proof depends on them. But who leads a group keeps the times of its
//! entries near its own ([`crate::skew`]), and gives up by age (retention.rs). A clock that is wrong by days must do
//! neither.
//!
//! # Failure
//! Stores that do not answer show no time. Without a majority nothing is given up by age; times are bounded as long as
//! nobody has said that the clock is wrong.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use seriatim_proto::ids::StoreId;
use seriatim_proto::limits;
use seriatim_proto::meta::Directory;

use crate::host::Host;
use crate::replica::Replica;
use crate::skew;

/// Looks again and again whether this clock is doubted. Runs until it is dropped.
pub(crate) async fn watch(host: Arc<Host>) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(directory) = host.events().directory().borrow().clone() else { continue };
        let stores: Vec<StoreId> = directory.stores.iter().map(|store| store.id).collect();
        let Some(shown) = ask(&host, &directory, &stores).await else { continue };
        let is_doubted = shown.is_contradicted();
        if is_doubted && !host.clock_is_doubted() {
            tracing::error!(others = ?shown.others, ours = shown.after, "ALARM: this clock is not that of a majority");
        }
        host.doubt_clock(is_doubted);
    }
}

/// This machine's time in Unix ms, if a majority of the group's voters have about the same.
pub(crate) async fn sure_ms(host: &Host, directory: &Directory, replica: &Replica) -> Option<u64> {
    let shown = ask(host, directory, &replica.status().voters).await?;
    if !shown.agrees() {
        tracing::warn!(
            group = replica.group.0,
            others = ?shown.others,
            ours = shown.after,
            "nothing is given up by age: no majority of clocks agrees with this one"
        );
        return None;
    }
    Some(shown.after)
}

/// Times that were shown.
#[derive(Debug)]
struct Shown {
    /// how many were asked
    asked: usize,
    /// what those said that answered
    others: Vec<u64>,
    /// ours, before they were asked, and after
    before: u64,
    after: u64,
}

async fn ask(host: &Host, directory: &Directory, stores: &[StoreId]) -> Option<Shown> {
    let ours = host.identity()?.store;
    let asks = |store: StoreId| store != ours && stores.contains(&store);
    let before = skew::unix_ms();
    let said = host.remote().statuses(directory, asks).await;
    let asked = stores.iter().filter(|store| **store != ours).count();
    Some(Shown { asked, others: said.iter().map(|status| status.unix_ms).collect(), before, after: skew::unix_ms() })
}

impl Shown {
    /// Those that show a time like ours, this one included.
    fn like_ours(&self) -> usize {
        let skew = limits::CLOCK_SKEW_MS_MAX;
        let range = self.before.saturating_sub(skew)..=self.after.saturating_add(skew);
        1 + self.others.iter().filter(|theirs| range.contains(theirs)).count()
    }

    fn is_majority(&self, count: usize) -> bool {
        2 * count > 1 + self.asked
    }

    /// Does a majority show a time like ours? A clock that was set back meanwhile is none to go by.
    fn agrees(&self) -> bool {
        self.before <= self.after && self.is_majority(self.like_ours())
    }

    /// Was a majority heard, and no majority shows a time like ours?
    fn is_contradicted(&self) -> bool {
        self.is_majority(1 + self.others.len()) && !self.is_majority(self.like_ours())
    }
}

/// Period of looking.
const LOOK: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn shown(asked: usize, others: &[u64], after: u64) -> Shown {
        Shown { asked, others: others.to_vec(), before: NOW, after }
    }

    #[test]
    fn a_majority_must_agree_and_only_a_majority_contradicts() {
        let far = NOW + limits::CLOCK_SKEW_MS_MAX + 11;
        for (asked, others, agrees, contradicted) in [
            (0, &[][..], true, false),
            (1, &[], false, false),
            (1, &[NOW], true, false),
            (1, &[far], false, true),
            (2, &[], false, false),
            (2, &[far], false, true),
            (2, &[far, far], false, true),
            (2, &[far, NOW], true, false),
            (2, &[NOW + limits::CLOCK_SKEW_MS_MAX], true, false),
            (2, &[0, 0], false, true),
            (4, &[NOW, far, far, far], false, true),
            (4, &[far], false, false),
            (4, &[NOW, NOW], true, false),
        ] {
            let shown = shown(asked, others, NOW + 10);
            assert_eq!((shown.agrees(), shown.is_contradicted()), (agrees, contradicted), "{asked} {others:?}");
        }
        assert!(!shown(0, &[], NOW - 1).agrees(), "set back while it was asked");
    }
}
