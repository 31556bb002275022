//! Group: calls of one message that are one request, and the answers that one reply comes to.
//!
//! # Invariants
//! I1: a run is cut into pieces that do not overlap, each for one call.

use std::collections::HashMap;

use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::sequence::{Answer, Call};
use seriatim_proto::ids::CounterName;
use seriatim_proto::limits;
use seriatim_proto::logic::Reply;
use tokio::time::Instant;

use super::named;
use crate::brain::Counting;

/// Calls for one counter that are one request.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Group {
    pub(super) counter: CounterName,
    pub(super) what: Counting,
    /// the caller's ids, and how many numbers each is to get
    pub(super) calls: Vec<(u64, u32)>,
    pub(super) since: Instant,
}

/// May a request be refused so although each of its calls alone would be answered? Its numbers are more than theirs.
pub(super) fn is_for_the_sum(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::GenerationExhausted | ErrorCode::ReadOnly)
}

impl Group {
    /// What each of its calls is told.
    ///
    /// # Errors
    /// The reply is to something else: a run that is too short would reach into another one.
    pub(super) fn answers(&self, reply: &Reply) -> Result<Vec<Answer>, Refusal> {
        let mut first = match (reply, self.what) {
            (Reply::Numbers { first, count }, Counting::Next(sum)) if *count == sum => first.get(),
            (Reply::Current(number), Counting::Current) => number.get(),
            _ => return Err(Refusal::new(ErrorCode::Internal, "an answer to something else")),
        };
        let piece = |(id, count): &(u64, u32)| {
            let answer = Answer { id: *id, first, ..Answer::default() };
            first += u64::from(*count);
            answer
        };
        Ok(self.calls.iter().map(piece).collect())
    }

    /// Each call for itself.
    pub(super) fn apart(self) -> Vec<Group> {
        let one = |(id, count): &(u64, u32)| {
            let what = if *count == 0 { Counting::Current } else { Counting::Next(*count) };
            Group { counter: self.counter.clone(), what, calls: vec![(*id, *count)], since: self.since }
        };
        self.calls.iter().map(one).collect()
    }
}

/// Calls of one message as requests, those for numbers of one counter together as far as one request may go; and
/// those that ask for something that nobody gets.
pub(super) fn gather(calls: &[Call], since: Instant) -> (Vec<Group>, Vec<(u64, Refusal)>) {
    let mut groups: Vec<Group> = Vec::new();
    let mut refused = Vec::new();
    // The newest group of a counter, for its numbers and for where it stands.
    let mut places: HashMap<(&str, bool), usize> = HashMap::new();
    for Call { id, counter, count } in calls {
        if *count > limits::NEXT_NUMBERS_MAX {
            let text = format!("{count} numbers are more than {}", limits::NEXT_NUMBERS_MAX);
            refused.push((*id, Refusal::new(ErrorCode::CountTooLarge, text)));
            continue;
        }
        let key = (counter.as_str(), *count == 0);
        let group = places.get(&key).and_then(|place| groups.get_mut(*place));
        match group.map(|group| (group.what, group)) {
            Some((Counting::Current, group)) => group.calls.push((*id, 0)),
            Some((Counting::Next(sum), group)) if sum + count <= limits::NEXT_NUMBERS_MAX => {
                group.what = Counting::Next(sum + count);
                group.calls.push((*id, *count));
            }
            _ => match named(counter) {
                Ok(counter) => {
                    let what = if *count == 0 { Counting::Current } else { Counting::Next(*count) };
                    places.insert(key, groups.len());
                    groups.push(Group { counter, what, calls: vec![(*id, *count)], since });
                }
                Err(refusal) => refused.push((*id, refusal)),
            },
        }
    }
    (groups, refused)
}

/// What a call is told that is refused.
pub(super) fn refused_call(id: u64, refusal: &Refusal) -> Answer {
    Answer {
        id,
        first: 0,
        code: refusal.code.name().to_owned(),
        message: refusal.message.clone(),
        retry_after_ms: refusal.retry_after_ms,
    }
}

#[cfg(test)]
mod tests {
    use seriatim_proto::ids::Seq;

    use super::*;

    fn call(id: u64, counter: &str, count: u32) -> Call {
        Call { id, counter: counter.to_owned(), count }
    }

    #[test]
    fn calls_of_a_counter_are_one_request_as_far_as_one_may_go() {
        const MAX: u32 = limits::NEXT_NUMBERS_MAX;
        let calls = [
            call(1, "a", 2),
            call(2, "b", 1),
            call(3, "a", 0),
            call(4, "a", 3),
            call(4, "a", 0),
            call(5, "a", MAX - 5),
            call(6, "a", 1),
            call(7, "a", 4),
            call(8, "a", MAX + 1),
            call(9, "", 1),
            call(10, "c\n", 0),
            call(11, "b", MAX),
        ];
        let (groups, refused) = gather(&calls, Instant::now());
        let seen: Vec<_> =
            groups.iter().map(|group| (group.counter.as_str(), group.what, group.calls.as_slice())).collect();
        type Seen<'a> = (&'a str, Counting, &'a [(u64, u32)]);
        let expected: [Seen<'_>; 5] = [
            ("a", Counting::Next(MAX), &[(1, 2), (4, 3), (5, MAX - 5)]),
            ("b", Counting::Next(1), &[(2, 1)]),
            ("a", Counting::Current, &[(3, 0), (4, 0)]),
            ("a", Counting::Next(5), &[(6, 1), (7, 4)]),
            ("b", Counting::Next(MAX), &[(11, MAX)]),
        ];
        assert_eq!(seen, expected);
        let codes: Vec<_> = refused.iter().map(|(id, refusal)| (*id, refusal.code)).collect();
        let expected = [(8, ErrorCode::CountTooLarge), (9, ErrorCode::Malformed), (10, ErrorCode::Malformed)];
        assert_eq!(codes, expected);
    }

    #[test]
    fn a_run_is_cut_into_the_numbers_of_each_call() {
        let (groups, _) = gather(&[call(7, "a", 2), call(8, "a", 1), call(7, "a", 4)], Instant::now());
        let first = Seq::new(100).unwrap();
        let run = groups[0].answers(&Reply::Numbers { first, count: 7 }).unwrap();
        let firsts: Vec<_> = run.iter().map(|answer| (answer.id, answer.first)).collect();
        assert_eq!(firsts, [(7, 100), (8, 102), (7, 103)]);
        let refusal = refused_call(7, &Refusal::later(ErrorCode::Busy, "later", 50));
        assert_eq!((refusal.id, refusal.first, refusal.code.as_str(), refusal.retry_after_ms), (7, 0, "BUSY", 50));
        // An answer to something else is nobody's number, and neither is a run that is too short.
        for reply in [Reply::Current(first), Reply::Numbers { first, count: 6 }, Reply::Numbers { first, count: 8 }] {
            assert_eq!(groups[0].answers(&reply).unwrap_err().code, ErrorCode::Internal);
        }
        let apart: Vec<_> = groups[0].clone().apart().into_iter().map(|group| (group.what, group.calls)).collect();
        let alone = |id, count| (Counting::Next(count), vec![(id, count)]);
        assert_eq!(apart, [alone(7, 2), alone(8, 1), alone(7, 4)]);
        let (groups, _) = gather(&[call(1, "a", 0), call(2, "a", 0)], Instant::now());
        let places = groups[0].answers(&Reply::Current(first)).unwrap();
        assert!(places.iter().all(|answer| answer.first == 100), "{places:?}");
        assert_eq!(groups[0].clone().apart()[1].what, Counting::Current);
    }
}
