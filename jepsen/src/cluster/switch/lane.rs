//! Lane: one direction of one node's link: when a frame that enters it leaves it, how often, and how whole.
//!
//! Frames leave in the order in which they came, whatever delays were drawn; only those that a reordering holds back
//! are overtaken. A lane without troubles and behind no delayed frame passes everything at once.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::frame::{Frame, Spoiled, spoil};

/// Frames that wait in one lane: 200 ms of twenty thousand a second. More are dropped and counted.
pub(super) const HELD_MAX: usize = 4_096;
/// How much longer a frame is held back so that those behind it overtake.
const HOLD_BACK_MS: std::ops::RangeInclusive<u64> = 2..=20;
/// What a trickle keeps waiting at most; more is dropped.
const TRICKLE_WAIT_MAX: Duration = Duration::from_millis(400);

/// What happens to frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// every frame comes so much later
    Delay(Duration),
    /// every frame comes later by at most this, drawn anew for each; their order stays
    Jitter(Duration),
    /// of a thousand frames so many come twice
    Duplicate(u32),
    /// of a thousand frames so many are held back, so that others overtake them
    Reorder(u32),
    /// of a thousand frames with an IP payload so many come with flipped bits
    Corrupt(u32),
}

/// What a trouble did so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Troubled {
    /// frames that came by
    pub frames: u64,
    /// of these it delayed, doubled, or spoiled so many; of a reordering: so many were overtaken
    pub hit: u64,
    /// of the spoiled ones so many have a right checksum all the same
    pub disguised: u64,
}

/// Names a trouble at work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct TroubleId(pub(super) u64);

/// A frame on its way through a lane.
#[derive(Debug)]
pub(super) struct Passing {
    pub(super) due: Instant,
    pub(super) frame: Frame,
    /// its place in the order in which frames came
    place: u64,
    held_back_by: Option<TroubleId>,
}

#[derive(Debug)]
struct AtWork {
    id: TroubleId,
    trouble: Trouble,
    troubled: Troubled,
}

/// A token bucket without tokens saved up.
#[derive(Debug)]
struct Trickle {
    bytes_per_s: f64,
    free_at: Option<Instant>,
    held_back: u64,
}

/// One direction of a link.
#[derive(Debug, Default)]
pub(super) struct Lane {
    troubles: Vec<AtWork>,
    trickle: Option<Trickle>,
    pulled: bool,
    /// Invariant: no frame that is not held back leaves before this.
    due_last: Option<Instant>,
    place_next: u64,
    /// the newest place that left
    place_left: Option<u64>,
    held: usize,
    dropped: u64,
}

impl Lane {
    /// One more trouble, from now on.
    pub(super) fn add(&mut self, id: TroubleId, trouble: Trouble) {
        self.troubles.push(AtWork { id, trouble, troubled: Troubled::default() });
    }

    /// It ends; frames that it delays stay delayed.
    pub(super) fn remove(&mut self, id: TroubleId) {
        self.troubles.retain(|at_work| at_work.id != id);
    }

    /// What it did here so far.
    pub(super) fn troubled(&self, id: TroubleId) -> Troubled {
        self.troubles.iter().find(|at_work| at_work.id == id).map_or_else(Troubled::default, |found| found.troubled)
    }

    /// Slower than so many kbit/s from now on, or at full rate.
    pub(super) fn set_rate(&mut self, kbit: Option<u32>) {
        let trickle = |kbit| Trickle { bytes_per_s: f64::from(kbit) * 125.0, free_at: None, held_back: 0 };
        self.trickle = kbit.map(trickle);
    }

    /// Frames that the rate held back or dropped.
    pub(super) fn held_back(&self) -> u64 {
        self.trickle.as_ref().map_or(0, |trickle| trickle.held_back)
    }

    /// Nothing gets through any more, or again.
    pub(super) fn set_pulled(&mut self, pulled: bool) {
        self.pulled = pulled;
    }

    /// Does nothing get through?
    pub(super) fn is_pulled(&self) -> bool {
        self.pulled
    }

    /// Frames that were dropped because too many waited.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A frame comes: it and its copies are added to `out`, with their times. Call [`Lane::leave`] for each then.
    pub(super) fn enter(&mut self, now: Instant, mut frame: Frame, rng: &mut StdRng, out: &mut Vec<Passing>) {
        if self.pulled {
            return;
        }
        let Some(mut due) = self.trickle.as_mut().map_or(Some(now), |trickle| trickle.due(now, frame.len())) else {
            return;
        };
        let (mut copies, mut held_back_by) = (1, None);
        for AtWork { id, trouble, troubled } in &mut self.troubles {
            troubled.frames += 1;
            match *trouble {
                Trouble::Delay(by) => due += by,
                Trouble::Jitter(most) => due += most.mul_f64(rng.random()),
                Trouble::Duplicate(per_mille) if lot(rng, per_mille) => copies += 1,
                Trouble::Reorder(per_mille) if lot(rng, per_mille) => {
                    held_back_by = Some(*id);
                    // Counted when it is overtaken.
                    continue;
                }
                Trouble::Corrupt(per_mille) if lot(rng, per_mille) => match spoil(&mut frame, rng) {
                    Some(spoiled) => troubled.disguised += u64::from(spoiled == Spoiled::Disguised),
                    None => continue,
                },
                Trouble::Duplicate(_) | Trouble::Reorder(_) | Trouble::Corrupt(_) => continue,
            }
            troubled.hit += 1;
        }
        due = self.due_last.map_or(due, |last| due.max(last));
        match held_back_by {
            Some(_) => due += Duration::from_millis(rng.random_range(HOLD_BACK_MS)),
            None => self.due_last = Some(due),
        }
        for _ in 1..copies {
            self.push(due, frame.clone(), held_back_by, out);
        }
        self.push(due, frame, held_back_by, out);
    }

    fn push(&mut self, due: Instant, frame: Frame, held_back_by: Option<TroubleId>, out: &mut Vec<Passing>) {
        if self.held >= HELD_MAX {
            self.dropped += 1;
            return;
        }
        self.held += 1;
        out.push(Passing { due, frame, place: self.place_next, held_back_by });
        self.place_next += 1;
    }

    /// Its time has come; answers the frame.
    pub(super) fn leave(&mut self, passing: Passing) -> Frame {
        self.held -= 1;
        let overtaken = self.place_left.is_some_and(|left| left > passing.place);
        if overtaken && let Some(id) = passing.held_back_by {
            let by = self.troubles.iter_mut().find(|at_work| at_work.id == id);
            by.into_iter().for_each(|at_work| at_work.troubled.hit += 1);
        }
        self.place_left = self.place_left.max(Some(passing.place));
        passing.frame
    }
}

fn lot(rng: &mut StdRng, per_mille: u32) -> bool {
    rng.random_ratio(per_mille.min(1_000), 1_000)
}

impl Trickle {
    /// When a frame of this length has gone through; `None` if too much waits already.
    fn due(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let free_at = self.free_at.map_or(now, |free_at| free_at.max(now));
        self.held_back += u64::from(free_at > now);
        if free_at - now > TRICKLE_WAIT_MAX {
            return None;
        }
        let due = free_at + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        self.free_at = Some(due);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::frame::tests::ipv4;
    use super::*;

    const ID: TroubleId = TroubleId(1);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// A thousand frames, one each millisecond, numbered in their body: when and which left, in order, and the lane.
    fn thousand(troubles: &[Trouble]) -> (Vec<(Duration, u16)>, Lane) {
        let (mut lane, mut rng, origin) = (Lane::default(), StdRng::seed_from_u64(7), Instant::now());
        for trouble in troubles {
            lane.add(ID, *trouble);
        }
        let (mut waiting, mut left) = (Vec::new(), Vec::new());
        for number in 0..3_000_u16 {
            let now = origin + ms(number.into());
            if number < 1_000 {
                let mut body = number.to_be_bytes().to_vec();
                body.resize(40, 0x33);
                lane.enter(now, ipv4(6, &body), &mut rng, &mut waiting);
            }
            waiting.sort_by_key(|passing| passing.due);
            while waiting.first().is_some_and(|passing| passing.due <= now) {
                let passing = waiting.remove(0);
                let due = passing.due - origin;
                let frame = lane.leave(passing);
                left.push((due, u16::from_be_bytes([frame[34], frame[35]])));
            }
        }
        assert!(waiting.is_empty() && lane.held == 0 && lane.dropped == 0);
        (left, lane)
    }

    fn numbers(left: &[(Duration, u16)]) -> Vec<u16> {
        left.iter().map(|(_, number)| *number).collect()
    }

    #[test]
    fn without_troubles_everything_passes_at_once() {
        let (left, _) = thousand(&[]);
        assert!(left.iter().enumerate().all(|(at, (due, number))| usize::from(*number) == at && *due == ms(at as u64)));
    }

    #[test]
    fn a_delay_moves_every_frame_by_as_much() {
        let (left, lane) = thousand(&[Trouble::Delay(ms(50))]);
        assert!(left.iter().all(|(due, number)| *due == ms(50 + u64::from(*number))));
        assert_eq!(lane.troubled(ID), Troubled { frames: 1_000, hit: 1_000, disguised: 0 });
    }

    #[test]
    fn jitter_keeps_the_order() {
        let (left, _) = thousand(&[Trouble::Jitter(ms(100))]);
        assert_eq!(numbers(&left), (0..1_000).collect::<Vec<_>>());
        let late = |(due, number): &(Duration, u16)| *due - ms((*number).into());
        assert!(left.iter().all(|frame| late(frame) <= ms(100)) && left.iter().any(|frame| late(frame) > ms(50)));
        assert!(left.iter().map(late).collect::<std::collections::BTreeSet<_>>().len() > 50, "it does not jitter");
    }

    #[test]
    fn duplicates_come_twice_and_in_order() {
        let (left, lane) = thousand(&[Trouble::Duplicate(200)]);
        let more = left.len() - 1_000;
        assert!((140..=260).contains(&more), "{more}");
        assert_eq!(lane.troubled(ID).hit, more as u64);
        assert!(numbers(&left).is_sorted());
    }

    #[test]
    fn reordering_counts_those_that_were_overtaken() {
        let (left, lane) = thousand(&[Trouble::Reorder(100)]);
        let mut sorted = numbers(&left);
        let overtaken = |at: &usize| sorted[..*at].iter().any(|before| *before > sorted[*at]);
        assert_eq!(lane.troubled(ID).hit, (0..sorted.len()).filter(overtaken).count() as u64);
        assert!((60..=140).contains(&lane.troubled(ID).hit), "{:?}", lane.troubled(ID));
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1_000).collect::<Vec<_>>(), "nothing is lost or doubled");
    }

    #[test]
    fn one_frame_alone_is_held_back_but_not_reordered() {
        let (mut lane, mut out, now) = (Lane::default(), Vec::new(), Instant::now());
        lane.add(ID, Trouble::Reorder(1_000));
        lane.enter(now, vec![0; 60], &mut StdRng::seed_from_u64(1), &mut out);
        let passing = out.remove(0);
        assert!(passing.due > now);
        lane.leave(passing);
        assert_eq!(lane.troubled(ID), Troubled { frames: 1, hit: 0, disguised: 0 });
    }

    #[test]
    fn what_comes_after_a_delay_does_not_overtake_what_it_delayed() {
        let (mut lane, mut rng, mut out, now) = (Lane::default(), StdRng::seed_from_u64(1), Vec::new(), Instant::now());
        lane.add(ID, Trouble::Delay(ms(200)));
        lane.enter(now, vec![0; 60], &mut rng, &mut out);
        lane.remove(ID);
        lane.enter(now + ms(1), vec![0; 60], &mut rng, &mut out);
        lane.enter(now + ms(300), vec![0; 60], &mut rng, &mut out);
        let dues: Vec<Duration> = out.iter().map(|passing| passing.due - now).collect();
        assert_eq!(dues, [ms(200), ms(200), ms(300)]);
    }

    #[test]
    fn troubles_add_up() {
        let (left, _) = thousand(&[Trouble::Delay(ms(20)), Trouble::Delay(ms(30)), Trouble::Duplicate(1_000)]);
        assert_eq!(left.len(), 2_000);
        assert!(left.iter().all(|(due, number)| *due == ms(50 + u64::from(*number))));
    }

    #[test]
    fn a_trickle_spaces_frames_and_drops_what_waits_too_long() {
        let (mut lane, mut rng, mut out, now) = (Lane::default(), StdRng::seed_from_u64(1), Vec::new(), Instant::now());
        // 1,000 bytes take 10 ms.
        lane.set_rate(Some(800));
        for _ in 0..100 {
            lane.enter(now, vec![0; 1_000], &mut rng, &mut out);
        }
        let dues: Vec<Duration> = out.iter().map(|passing| passing.due - now).collect();
        assert_eq!(dues, (1..=41).map(|count| ms(10 * count)).collect::<Vec<_>>());
        assert_eq!(lane.held_back(), 99);
    }

    #[test]
    fn a_full_lane_drops_and_counts() {
        let (mut lane, mut rng, mut out, now) = (Lane::default(), StdRng::seed_from_u64(1), Vec::new(), Instant::now());
        lane.add(ID, Trouble::Delay(ms(200)));
        for _ in 0..HELD_MAX + 5 {
            lane.enter(now, Vec::new(), &mut rng, &mut out);
        }
        assert_eq!((out.len(), lane.dropped()), (HELD_MAX, 5));
        lane.set_pulled(true);
        lane.enter(now, Vec::new(), &mut rng, &mut out);
        assert_eq!((out.len(), lane.dropped()), (HELD_MAX, 5));
    }
}
