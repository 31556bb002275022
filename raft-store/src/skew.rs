//! Skew: how far the times that people see may run before the clock of the store that leads.
//!
//! An entry carries its holder's wall clock, and a conversation's times never fall: one that ran far ahead would make
//! all older messages too late to edit, until the clocks have caught up. So the leader's door lowers what is too far
//! ahead before the batch reaches Raft. What is in the log is what apply takes: it reads no clock, and a command that
//! was lowered is the same on all replicas. A holder that sends its `n` once more may find another time in it; only one
//! of them is applied.
//!
//! Nothing is refused for its time: a message is worth more than its date. What is behind stays, and apply raises it to
//! its predecessor's.

use std::time::{SystemTime, UNIX_EPOCH};

use seriatim_proto::command::{Command, HolderOp};
use seriatim_proto::limits;

/// Unix milliseconds by this machine's wall clock, 0 before 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Lowers what is more than [`limits::CLOCK_SKEW_MS_MAX`] ahead of the leader's `now_ms` to that. How many times were.
///
/// What is delivered keeps its time: chains bind it, and the leader of its conversation has looked at it.
pub(crate) fn cap(commands: &mut [Command], now_ms: u64) -> u64 {
    let most = now_ms.saturating_add(limits::CLOCK_SKEW_MS_MAX);
    let mut lowered = 0;
    let mut lower = |at_ms: &mut u64| {
        if *at_ms > most {
            *at_ms = most;
            lowered += 1;
        }
    };
    for command in commands {
        let Command::Held { op, .. } = command else { continue };
        match op {
            HolderOp::Append(append) => lower(&mut append.at_ms),
            HolderOp::SetMarks { marks } => marks.iter_mut().for_each(|write| lower(&mut write.at_ms)),
            HolderOp::Release { .. }
            | HolderOp::Reserve { .. }
            | HolderOp::Deliver { .. }
            | HolderOp::Delivered { .. }
            | HolderOp::SetCursors { .. }
            | HolderOp::CancelSend(_) => (),
        }
    }
    lowered
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
    fn what_is_further_ahead_than_a_minute_is_a_minute_ahead() {
        let most = NOW_MS + limits::CLOCK_SKEW_MS_MAX;
        for (times, lowered) in [
            ([0, NOW_MS, most], 0),
            ([most + 1, most, NOW_MS], 1),
            ([most, most + 1, most + 3_600_000], 2),
            ([u64::MAX, u64::MAX, u64::MAX], 3),
        ] {
            let mut lowers = commands(times);
            assert_eq!(cap(&mut lowers, NOW_MS), lowered, "{times:?}");
            assert_eq!(lowers, commands(times.map(|at_ms| at_ms.min(most))));
        }
        assert_eq!(cap(&mut commands([u64::MAX; 3]), u64::MAX), 0, "a clock at its end overflows nothing");
    }
}
