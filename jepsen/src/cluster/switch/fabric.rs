//! Fabric: a switch without its sockets: frames in, frames out, time as an argument, chance from a seed.
//!
//! ```text
//!  handle_frame(port a) ─▶ lane "from a" ─▶ route by address, cuts ─▶ lane "to b" ─▶ poll_transmit(port b)
//!                             └──── frames whose time has not come wait in one heap ────┘
//! ```
//! Call [`Fabric::poll_transmit`] until `None` after every `handle_*`, and [`Fabric::handle_timeout`] when
//! [`Fabric::poll_timeout`] has come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::frame::{self, Frame, Mac};
use super::lane::{Lane, Passing, Trouble, TroubleId, Troubled};

/// Where a link is plugged in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Port(pub(crate) usize);

/// Of a node's link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Direction {
    /// what the node sends
    FromNode,
    /// what it is sent
    ToNode,
}

impl Direction {
    /// Of a link.
    pub const BOTH: &[Direction] = &[Direction::FromNode, Direction::ToNode];
}

/// Names a cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CutId(u64);

#[derive(Debug)]
struct Cut {
    id: CutId,
    pairs: BTreeSet<(Port, Port)>,
    percent: u8,
    dropped: u64,
}

/// A frame that waits in a lane.
#[derive(Debug)]
struct Waiting {
    passing: Passing,
    /// Of two that are due at once, the one that came first leaves first.
    number: u64,
    port: Port,
    direction: Direction,
}

/// The switch.
#[derive(Debug)]
pub(crate) struct Fabric {
    /// by port: from the node, to the node
    lanes: Vec<[Lane; 2]>,
    /// who is reached through which port, as their own frames told
    table: BTreeMap<Mac, Port>,
    cuts: Vec<Cut>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    ready: VecDeque<(Port, Frame)>,
    /// kept for its memory only; empty between calls
    passing: Vec<Passing>,
    rng: StdRng,
    number_next: u64,
}

impl Fabric {
    /// A switch of so many ports.
    pub(crate) fn new(ports: usize, seed: u64) -> Self {
        Self {
            lanes: (0..ports).map(|_| <[Lane; 2]>::default()).collect(),
            table: BTreeMap::new(),
            cuts: Vec::new(),
            waiting: BinaryHeap::new(),
            ready: VecDeque::new(),
            passing: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            number_next: 0,
        }
    }

    /// A frame came in through a port.
    pub(crate) fn handle_frame(&mut self, now: Instant, port: Port, frame: Frame) {
        // Those that are due already come first, or they would be overtaken.
        self.handle_timeout(now);
        self.enter(now, port, Direction::FromNode, frame);
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while self.waiting.peek().is_some_and(|Reverse(first)| first.passing.due <= now) {
            let Reverse(Waiting { passing, port, direction, .. }) = self.waiting.pop().expect("it was peeked at");
            self.leave(now, port, direction, passing);
        }
    }

    /// The next frame that leaves, and through which port.
    pub(crate) fn poll_transmit(&mut self) -> Option<(Port, Frame)> {
        self.ready.pop_front()
    }

    /// When the next frame is due that waits.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(first)| first.passing.due)
    }

    /// One more trouble of a link's directions.
    pub(crate) fn trouble(&mut self, port: Port, directions: &[Direction], trouble: Trouble) -> TroubleId {
        let id = TroubleId(self.number());
        directions.iter().for_each(|direction| self.lane(port, *direction).add(id, trouble));
        id
    }

    /// What it did so far, in all its directions.
    pub(crate) fn troubled(&self, id: TroubleId) -> Troubled {
        let parts = self.lanes.iter().flatten().map(|lane| lane.troubled(id));
        parts.fold(Troubled::default(), |sum, part| Troubled {
            frames: sum.frames + part.frames,
            hit: sum.hit + part.hit,
            disguised: sum.disguised + part.disguised,
        })
    }

    /// Ends it; answers what it did.
    pub(crate) fn calm(&mut self, id: TroubleId) -> Troubled {
        let troubled = self.troubled(id);
        self.lanes.iter_mut().flatten().for_each(|lane| lane.remove(id));
        troubled
    }

    /// Drops so many percent of what goes from the first to the second of these.
    pub(crate) fn cut(&mut self, pairs: BTreeSet<(Port, Port)>, percent: u8) -> CutId {
        let id = CutId(self.number());
        self.cuts.push(Cut { id, pairs, percent, dropped: 0 });
        id
    }

    /// Frames that a cut dropped so far; `None` if there is no such cut.
    pub(crate) fn dropped(&self, id: CutId) -> Option<u64> {
        self.cuts.iter().find(|cut| cut.id == id).map(|cut| cut.dropped)
    }

    /// Ends a cut.
    pub(crate) fn mend(&mut self, id: CutId) {
        self.cuts.retain(|cut| cut.id != id);
    }

    /// One direction of a link.
    pub(crate) fn lane(&mut self, port: Port, direction: Direction) -> &mut Lane {
        &mut self.lanes[port.0][direction as usize]
    }

    /// Frames that were dropped because too many waited.
    pub(crate) fn overflowed(&self) -> u64 {
        self.lanes.iter().flatten().map(Lane::dropped).sum()
    }

    fn number(&mut self) -> u64 {
        self.number_next += 1;
        self.number_next
    }

    fn enter(&mut self, now: Instant, port: Port, direction: Direction, frame: Frame) {
        let mut passing = std::mem::take(&mut self.passing);
        self.lanes[port.0][direction as usize].enter(now, frame, &mut self.rng, &mut passing);
        for passing in passing.drain(..) {
            if passing.due <= now {
                self.leave(now, port, direction, passing);
            } else {
                let number = self.number();
                self.waiting.push(Reverse(Waiting { passing, number, port, direction }));
            }
        }
        self.passing = passing;
    }

    fn leave(&mut self, now: Instant, port: Port, direction: Direction, passing: Passing) {
        let frame = self.lane(port, direction).leave(passing);
        match direction {
            Direction::FromNode => self.route(now, port, frame),
            Direction::ToNode => self.ready.push_back((port, frame)),
        }
    }

    fn route(&mut self, now: Instant, from: Port, frame: Frame) {
        let Some((target, source)) = frame::addresses(&frame) else { return };
        if !frame::is_group(source) {
            self.table.insert(source, from);
        }
        match self.table.get(&target).copied() {
            Some(to) if to == from => {}
            Some(to) => self.carry(now, from, to, frame),
            None => {
                for to in (0..self.lanes.len()).map(Port).filter(|to| *to != from) {
                    self.carry(now, from, to, frame.clone());
                }
            }
        }
    }

    fn carry(&mut self, now: Instant, from: Port, to: Port, frame: Frame) {
        for cut in self.cuts.iter_mut().filter(|cut| cut.pairs.contains(&(from, to))) {
            if self.rng.random_ratio(u32::from(cut.percent), 100) {
                cut.dropped += 1;
                return;
            }
        }
        self.enter(now, to, Direction::ToNode, frame);
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.passing.due, self.number).cmp(&(other.passing.due, other.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::frame::tests::ipv4;
    use super::*;

    const PORTS: usize = 4;
    const EVERYBODY: Mac = [0xff; 6];

    fn mac(port: usize) -> Mac {
        [2, 0, 0, 0, 0, port as u8]
    }

    fn frame(from: usize, to: Mac, tag: u8) -> Frame {
        let mut frame = ipv4(6, &[tag; 50]);
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&mac(from));
        frame
    }

    /// A switch that has heard everybody once.
    fn acquainted(now: Instant) -> Fabric {
        let mut fabric = Fabric::new(PORTS, 1);
        for port in 0..PORTS {
            fabric.handle_frame(now, Port(port), frame(port, EVERYBODY, 0));
        }
        drain(&mut fabric);
        fabric
    }

    fn drain(fabric: &mut Fabric) -> Vec<(usize, Frame)> {
        std::iter::from_fn(|| fabric.poll_transmit()).map(|(port, frame)| (port.0, frame)).collect()
    }

    #[test]
    fn a_known_address_gets_it_alone_and_a_strangers_goes_to_all_others() {
        let now = Instant::now();
        let mut fabric = acquainted(now);
        fabric.handle_frame(now, Port(1), frame(1, mac(3), 7));
        assert_eq!(drain(&mut fabric), [(3, frame(1, mac(3), 7))]);
        for stranger in [mac(9), EVERYBODY] {
            fabric.handle_frame(now, Port(1), frame(1, stranger, 7));
            let ports: Vec<usize> = drain(&mut fabric).into_iter().map(|(port, _)| port).collect();
            assert_eq!(ports, [0, 2, 3]);
        }
        assert_eq!(fabric.poll_timeout(), None);
    }

    #[test]
    fn a_delay_hits_its_direction_of_its_node_and_nobody_else() {
        let now = Instant::now();
        let mut fabric = acquainted(now);
        let by = Duration::from_millis(50);
        let id = fabric.trouble(Port(2), &[Direction::ToNode], Trouble::Delay(by));
        fabric.handle_frame(now, Port(1), frame(1, mac(2), 1));
        fabric.handle_frame(now, Port(2), frame(2, mac(1), 2));
        assert_eq!(drain(&mut fabric), [(1, frame(2, mac(1), 2))]);
        assert_eq!(fabric.poll_timeout(), Some(now + by));
        fabric.handle_timeout(now + by - Duration::from_nanos(1));
        assert_eq!(drain(&mut fabric), []);
        fabric.handle_timeout(now + by);
        assert_eq!(drain(&mut fabric), [(2, frame(1, mac(2), 1))]);
        assert_eq!(fabric.calm(id), Troubled { frames: 1, hit: 1, disguised: 0 });
        fabric.handle_frame(now + by, Port(1), frame(1, mac(2), 3));
        assert_eq!(drain(&mut fabric).len(), 1);
    }

    #[test]
    fn delays_of_both_ends_of_a_way_add_up() {
        let now = Instant::now();
        let mut fabric = acquainted(now);
        let by = Duration::from_millis(20);
        fabric.trouble(Port(1), Direction::BOTH, Trouble::Delay(by));
        fabric.trouble(Port(2), Direction::BOTH, Trouble::Delay(by));
        fabric.handle_frame(now, Port(1), frame(1, mac(2), 1));
        fabric.handle_timeout(now + by);
        assert_eq!(fabric.poll_timeout(), Some(now + 2 * by));
        fabric.handle_timeout(now + 2 * by);
        assert_eq!(drain(&mut fabric).len(), 1);
    }

    #[test]
    fn cuts_drop_their_pairs_and_overlap() {
        let now = Instant::now();
        let mut fabric = acquainted(now);
        let one = fabric.cut(BTreeSet::from([(Port(1), Port(2)), (Port(2), Port(1))]), 100);
        let other = fabric.cut(BTreeSet::from([(Port(1), Port(2))]), 100);
        let passes = |fabric: &mut Fabric, from: usize, to: usize| {
            fabric.handle_frame(now, Port(from), frame(from, mac(to), 1));
            !drain(fabric).is_empty()
        };
        assert!(!passes(&mut fabric, 1, 2) && !passes(&mut fabric, 2, 1) && passes(&mut fabric, 1, 3));
        assert_eq!((fabric.dropped(one), fabric.dropped(other)), (Some(2), Some(0)));
        fabric.mend(one);
        assert!(!passes(&mut fabric, 1, 2) && passes(&mut fabric, 2, 1));
        fabric.mend(other);
        assert!(passes(&mut fabric, 1, 2));
        assert_eq!(fabric.dropped(one), None);
    }

    #[test]
    fn the_same_seed_and_frames_meet_the_same_fate() {
        let now = Instant::now();
        let run = |seed: u64| {
            let mut fabric = Fabric::new(PORTS, seed);
            fabric.trouble(Port(1), Direction::BOTH, Trouble::Corrupt(300));
            fabric.trouble(Port(1), Direction::BOTH, Trouble::Duplicate(300));
            fabric.trouble(Port(2), Direction::BOTH, Trouble::Jitter(Duration::from_millis(9)));
            fabric.cut(BTreeSet::from([(Port(1), Port(2))]), 30);
            for tag in 0..200 {
                fabric.handle_frame(now, Port(1), frame(1, mac(2), tag));
            }
            fabric.handle_timeout(now + Duration::from_secs(1));
            drain(&mut fabric)
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
