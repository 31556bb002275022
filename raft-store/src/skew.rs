//! Skew: how far the times that people see may be from the clock of the store that leads.
//!
//! An entry carries its holder's wall clock, and a conversation's times never fall: one that ran far ahead would make
//! all older messages too late to edit, until the clocks have caught up; one far behind would have its messages given up
//! by age at once. So the leader's door brings what is too far off to a minute of its own clock, before the batch reaches
//! Raft, unless that clock is doubted (clock.rs). What is in the log is what apply takes: it reads no clock, and a command
//! that was changed is the same on all replicas. A holder that sends its `n` once more may find another time in it; only
//! one of them is applied.
//!
//! Nothing is refused for its time: a message is worth more than its date. Apply raises each to its predecessor's.

use std::time::{SystemTime, UNIX_EPOCH};

use seriatim_proto::command::{Command, HolderOp};
use seriatim_proto::limits;

/// Unix milliseconds by this machine's wall clock, 0 before 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Brings what is more than [`limits::CLOCK_SKEW_MS_MAX`] from the leader's `now_ms` to that. How many times were.
///
/// What is delivered keeps its time: chains bind it, and the leader of its conversation has looked at it.
pub(crate) fn bound(commands: &mut [Command], now_ms: u64) -> u64 {
    let least = now_ms.saturating_sub(limits::CLOCK_SKEW_MS_MAX);
    let most = now_ms.saturating_add(limits::CLOCK_SKEW_MS_MAX);
    let mut changed = 0;
    let mut bound = |at_ms: &mut u64| {
        let bounded = (*at_ms).clamp(least, most);
        changed += u64::from(bounded != *at_ms);
        *at_ms = bounded;
    };
    for command in commands {
        let Command::Held { op, .. } = command else { continue };
        match op {
            HolderOp::Append(append) => bound(&mut append.at_ms),
            HolderOp::SetMarks { marks } => marks.iter_mut().for_each(|write| bound(&mut write.at_ms)),
            HolderOp::Release { .. }
            | HolderOp::Reserve { .. }
            | HolderOp::Deliver { .. }
            | HolderOp::Delivered { .. }
            | HolderOp::SetCursors { .. }
            | HolderOp::CancelSend(_) => (),
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use seriatim_proto::command::{Append, Content, Mark, MarkWrite, Place};
    use seriatim_proto::ids::{ConversationId, Epoch, Fence, MessageId, SlotId, TenantId, UserId};

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn held(op: HolderOp) -> Command {
        Command::Held { fence: Fence { slot: SlotId(1), epoch: Epoch(1), n: 0 }, op }
    }

    fn commands(times: [u64; 3]) -> Vec<Command> {
        let (tenant, user) = (TenantId(1), UserId::new("alice").unwrap());
        let conversation = ConversationId::direct(user.clone(), user.clone());
        let place = Place::Open { segment: 0 };
        let write = |at_ms| MarkWrite {
            tenant,
            user: user.clone(),
            conversation: conversation.clone(),
            mark: Mark::Mute { on: true },
            place,
            at_ms,
        };
        let append = Append {
            tenant,
            conversation: conversation.clone(),
            sender: user.clone(),
            message_id: MessageId([1; 16]),
            known: None,
            follows: None,
            content: Content::Message { salt: Bytes::new(), body: Bytes::new() },
            place,
            at_ms: times[0],
            local: Vec::new(),
            delivered: None,
        };
        vec![held(HolderOp::Append(append)), held(HolderOp::SetMarks { marks: vec![write(times[1]), write(times[2])] })]
    }

    #[test]
    fn what_is_further_off_than_a_minute_is_a_minute_off() {
        let (least, most) = (NOW_MS - limits::CLOCK_SKEW_MS_MAX, NOW_MS + limits::CLOCK_SKEW_MS_MAX);
        for (times, changed) in [
            ([least, NOW_MS, most], 0),
            ([most + 1, most, NOW_MS], 1),
            ([least, most + 1, most + 3_600_000], 2),
            ([least - 1, 0, NOW_MS], 2),
            ([u64::MAX, u64::MAX, u64::MAX], 3),
        ] {
            let mut bounds = commands(times);
            assert_eq!(bound(&mut bounds, NOW_MS), changed, "{times:?}");
            assert_eq!(bounds, commands(times.map(|at_ms| at_ms.clamp(least, most))));
        }
        assert_eq!(bound(&mut commands([u64::MAX; 3]), u64::MAX), 0, "a clock at its end overflows nothing");
        assert_eq!(bound(&mut commands([0; 3]), 0), 0, "nor one at its beginning");
    }
}
