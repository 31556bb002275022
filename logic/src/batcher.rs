//! Batcher: commands of all slots of a group gather while a few entries are in flight, and go out as one.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use seriatim_proto::ids::{Epoch, GroupId, SlotId};
use seriatim_proto::{codec, limits};

/// Whose command it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CommandOf {
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
    pub(crate) n: u64,
}

#[derive(Debug, Default)]
struct Group {
    queue: VecDeque<(CommandOf, Bytes)>,
    in_flight: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Batcher {
    groups: BTreeMap<GroupId, Group>,
}

impl Batcher {
    pub(crate) fn push(&mut self, group: GroupId, of: CommandOf, command: Bytes) {
        self.groups.entry(group).or_default().queue.push_back((of, command));
    }

    /// The next entry to send: `(group, whose commands, codec::encode(&Vec<Command>))`.
    pub(crate) fn next(&mut self) -> Option<(GroupId, Vec<CommandOf>, Bytes)> {
        let ready = |group: &Group| match group.in_flight {
            0 => !group.queue.is_empty(),
            // An entry costs much, a command little: while one is under way, commands gather for the next.
            in_flight => in_flight < limits::PROPOSALS_IN_FLIGHT_MAX && group.queue.len() >= GATHER_COMMANDS,
        };
        let (id, group) = self.groups.iter_mut().find(|(_, group)| ready(group))?;
        let (mut bytes, mut count) = (0, 0);
        for (_, command) in group.queue.iter().take(limits::ENTRY_COMMANDS_MAX as usize) {
            if count > 0 && bytes + command.len() > ENTRY_BYTES {
                break;
            }
            bytes += command.len();
            count += 1;
        }
        let (of, commands): (Vec<CommandOf>, Vec<Bytes>) = group.queue.drain(..count).unzip();
        let batch = codec::join(commands.iter().map(|command| &command[..]));
        group.in_flight += 1;
        Some((*id, of, batch))
    }

    /// An entry was answered, or will not be.
    pub(crate) fn landed(&mut self, group: GroupId) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.in_flight = group.in_flight.saturating_sub(1);
        }
    }
}

/// Commands that gather before another entry is sent while one is under way.
const GATHER_COMMANDS: usize = 64;
/// Bytes of commands in one entry, well below the limit.
const ENTRY_BYTES: usize = (limits::ENTRY_BYTES_MAX - limits::FRAME_HEADER_BYTES) as usize;

#[cfg(test)]
mod tests {
    use seriatim_proto::command::Command;
    use seriatim_proto::ids::NodeId;

    use super::*;

    #[test]
    fn commands_that_gathered_are_one_entry_that_decodes() {
        let mut batcher = Batcher::default();
        let commands: Vec<Command> = (0..200).map(|node| Command::OpenLease { node: NodeId(node) }).collect();
        for (n, command) in commands.iter().enumerate() {
            let of = CommandOf { slot: SlotId(1), epoch: Epoch(1), n: n as u64 };
            batcher.push(GroupId(1), of, codec::encode_part(command));
        }
        let (group, of, batch) = batcher.next().unwrap();
        assert_eq!((group, of.len()), (GroupId(1), 200));
        assert_eq!(codec::decode::<Vec<Command>>(&batch).unwrap(), commands);
        assert!(batcher.next().is_none());
    }

    #[test]
    fn only_a_few_entries_are_in_flight_and_the_later_ones_are_large() {
        let mut batcher = Batcher::default();
        let of = CommandOf { slot: SlotId(1), epoch: Epoch(1), n: 0 };
        let push = |batcher: &mut Batcher, count: usize| {
            (0..count).for_each(|_| batcher.push(GroupId(1), of, Bytes::from_static(b"x")));
        };
        push(&mut batcher, 1);
        assert_eq!(batcher.next().unwrap().1.len(), 1);
        push(&mut batcher, GATHER_COMMANDS - 1);
        assert!(batcher.next().is_none());
        for _ in 1..limits::PROPOSALS_IN_FLIGHT_MAX {
            push(&mut batcher, GATHER_COMMANDS);
            assert!(batcher.next().unwrap().1.len() >= GATHER_COMMANDS);
        }
        push(&mut batcher, GATHER_COMMANDS);
        assert!(batcher.next().is_none());
        (0..limits::PROPOSALS_IN_FLIGHT_MAX).for_each(|_| batcher.landed(GroupId(1)));
        assert!(batcher.next().is_some());
    }
}
