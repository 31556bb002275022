//! Talk: made-up conversations, and the inboxes and devices of those who take part.
//!
//! A queue of moments, taken one after another: at each something takes effect, all at once, as in a system that makes
//! no mistake. What a client sees of it has a call before and a return behind the moment, so that operations overlap as
//! they would. Some answers are lost, before or after their effect, and are asked again under the same id.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rand::RngExt;
use rand::rngs::StdRng;

use super::reader::Device;
use super::story::{Story, around};
use crate::history::{ConversationRead, Ended, Function, Item, Op, SeenEntry};

pub(super) const USERS: [&str; 7] = ["ann", "bob", "cem", "dan", "eve", "fay", "gus"];
/// Takes part in nothing, and has an inbox all the same.
pub(super) const STRANGER: &str = "zoe";
const SENDS: u64 = 90;
const SPAN: u64 = 20_000;

/// A moment of what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum What {
    /// an attempt of a send: conversation, sender, id, and what it changes
    Send(usize, &'static str, String, Change),
    /// an attempt without an answer takes effect
    Late(usize, &'static str, String, Change),
    /// a member's inbox is given the next entry of a conversation: user, conversation, index
    Deliver(&'static str, usize, usize),
    /// the founder reads a conversation
    Read(usize),
    /// someone asks how far a conversation has come
    Max(usize),
    /// a device does something
    Device(usize),
}

/// What an entry does to the members.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Change {
    None,
    Create,
    Add(&'static str),
    Remove(&'static str),
}

#[derive(Debug)]
struct Room {
    name: String,
    founder: &'static str,
    members: Vec<&'static str>,
    is_group: bool,
    entries: Vec<SeenEntry>,
    /// of each entry: who is owed it
    owed: Vec<Vec<&'static str>>,
    /// when the last delivery to each user is due
    due: BTreeMap<&'static str, u64>,
}

struct World<'a> {
    rng: &'a mut StdRng,
    story: Story,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    /// tells moments of one time apart
    count: u64,
    rooms: Vec<Room>,
    inboxes: BTreeMap<&'static str, Vec<SeenEntry>>,
    devices: Vec<Device>,
}

/// Tells what happened.
pub(super) fn tell(rng: &mut StdRng) -> Story {
    let rooms = rooms(rng);
    let owners = USERS.iter().chain([&STRANGER]);
    let inboxes = owners.clone().map(|user| (*user, Vec::new())).collect();
    let phones = owners.clone().map(|user| Device::new(user, "phone"));
    let devices = phones.chain(USERS.iter().step_by(2).map(|user| Device::new(user, "laptop"))).collect();
    let mut world = World { rng, story: Story::default(), queue: BinaryHeap::new(), count: 0, rooms, inboxes, devices };
    world.plan();
    let mut end = 0;
    while let Some(Reverse((now, _, what))) = world.queue.pop() {
        world.take(now, what);
        end = now;
    }
    world.finish(end + 10_000);
    world.story
}

fn rooms(rng: &mut StdRng) -> Vec<Room> {
    let mut rooms = Vec::new();
    for (one, other) in [(0, 1), (1, 4)] {
        let (name, members) = (format!("direct:{}:{}", USERS[one], USERS[other]), vec![USERS[one], USERS[other]]);
        rooms.push(Room::new(name, members, false));
    }
    for number in 0..2usize {
        let count = rng.random_range(2..5);
        let members = (0..count).map(|place| USERS[(number * 3 + place) % USERS.len()]).collect();
        rooms.push(Room::new(format!("group:{number:032x}"), members, true));
    }
    rooms
}

impl Room {
    fn new(name: String, members: Vec<&'static str>, is_group: bool) -> Self {
        let founder = members[0];
        let members = if is_group { Vec::new() } else { members };
        Self { name, founder, members, is_group, entries: Vec::new(), owed: Vec::new(), due: BTreeMap::new() }
    }
    fn find(&self, id: &str) -> Option<u64> {
        self.entries.iter().find(|entry| entry.id == id).map(|entry| entry.conversation_seq)
    }
}

impl World<'_> {
    fn at(&mut self, time: u64, what: What) {
        self.count += 1;
        self.queue.push(Reverse((time, self.count, what)));
    }

    fn id(&mut self) -> String {
        format!("{:032x}", self.rng.random::<u128>())
    }

    fn plan(&mut self) {
        for room in 0..self.rooms.len() {
            if self.rooms[room].is_group {
                let (founder, id) = (self.rooms[room].founder, self.id());
                self.at(1_000, What::Send(room, founder, id, Change::Create));
            }
        }
        for _ in 0..SENDS {
            let time = self.rng.random_range(2_000..SPAN);
            let room = self.rng.random_range(0..self.rooms.len());
            let (id, founder) = (self.id(), self.rooms[room].founder);
            let other = USERS[self.rng.random_range(0..USERS.len())];
            let change = match self.rng.random_range(0..12) {
                0 if self.rooms[room].is_group && other != founder => Change::Add(other),
                1 if self.rooms[room].is_group && other != founder => Change::Remove(other),
                _ => Change::None,
            };
            let sender = if change == Change::None && self.rng.random_bool(0.5) { other } else { founder };
            self.at(time, What::Send(room, sender, id, change));
            let (time, room) = (self.rng.random_range(1_500..SPAN), self.rng.random_range(0..self.rooms.len()));
            let what = if self.rng.random_bool(0.3) { What::Max(room) } else { What::Read(room) };
            self.at(time, what);
            for _ in 0..2 {
                let (time, device) =
                    (self.rng.random_range(1_500..SPAN + 2_000), self.rng.random_range(0..self.devices.len()));
                self.at(time, What::Device(device));
            }
        }
    }

    fn take(&mut self, now: u64, what: What) {
        match what {
            What::Send(room, sender, id, change) => self.send(now, room, sender, id, change),
            What::Late(room, sender, id, change) => {
                self.commit(now, room, sender, &id, &change);
            }
            What::Deliver(user, room, index) => self.deliver(user, room, index),
            What::Read(room) => self.read(now, room),
            What::Max(room) => {
                let interval = around(self.rng, now);
                let seq = self.rooms[room].entries.last().map_or(0, |entry| entry.conversation_seq);
                let op = Op::new(700, &self.rooms[room].name, Function::Maxseq, interval, Ended::Ok);
                self.story.ops.push(Op { seq: Some(seq), ..op });
            }
            What::Device(device) => {
                let device = &mut self.devices[device];
                device.act(self.rng, now, &self.inboxes[device.user], &mut self.story);
            }
        }
    }

    fn send(&mut self, now: u64, room: usize, sender: &'static str, id: String, change: Change) {
        let interval = around(self.rng, now);
        let die = self.rng.random_range(0..20);
        let is_member = self.rooms[room].members.contains(&sender) || change == Change::Create;
        let known = self.rooms[room].find(&id).is_some();
        let (ended, seq) = match die {
            _ if !is_member && !known => (Ended::Fail, None),
            // The answer is lost; the effect comes now, later or never.
            0 => {
                self.commit(now, room, sender, &id, &change);
                (Ended::Info, None)
            }
            1 => {
                let late = now + self.rng.random_range(500..3_000);
                self.at(late, What::Late(room, sender, id.clone(), change.clone()));
                (Ended::Info, None)
            }
            2 => (Ended::Info, None),
            3 if !known => (Ended::Fail, None),
            _ => match self.commit(now, room, sender, &id, &change) {
                Some(seq) => (Ended::Ok, Some(seq)),
                None => (Ended::Fail, None),
            },
        };
        let op = Op::new(self.count, &self.rooms[room].name, Function::Append, interval, ended);
        self.story.ops.push(Op { id: Some(id.clone()), seq, ..op });
        let again = match ended {
            Ended::Ok => self.rng.random_ratio(1, 8),
            Ended::Info => self.rng.random_bool(0.7),
            Ended::Fail => false,
        };
        if again {
            let time = interval.1 + 500 + self.rng.random_range(0..500);
            self.at(time, What::Send(room, sender, id, change));
        }
    }

    /// The entry lies in the conversation from now on; where, if it may.
    fn commit(&mut self, now: u64, place: usize, sender: &'static str, id: &str, change: &Change) -> Option<u64> {
        let room = &mut self.rooms[place];
        if let Some(seq) = room.find(id) {
            return Some(seq);
        }
        if *change != Change::Create && !room.members.contains(&sender) {
            return None;
        }
        let before = room.members.clone();
        let (mut kind, mut added, mut removed) = ("members", Vec::new(), Vec::new());
        match change {
            Change::None => kind = "message",
            Change::Create => {
                kind = "create";
                let count = self.rng.random_range(1..4);
                added = USERS.iter().cycle().skip(place).take(count).filter(|user| **user != sender).copied().collect();
                room.members = added.iter().copied().chain([sender]).collect();
            }
            Change::Add(user) => {
                added.push(*user);
                if !room.members.contains(user) {
                    room.members.push(user);
                }
            }
            Change::Remove(user) => {
                removed.push(*user);
                room.members.retain(|member| member != user);
            }
        }
        let last = room.entries.last();
        let gap = if self.rng.random_ratio(1, 10) { self.rng.random_range(1..30) } else { 0 };
        let seq = last.map_or(0, |entry| entry.conversation_seq) + 1 + gap;
        let ordinal = last.map_or(0, |entry| entry.ordinal) + u64::from(kind == "message");
        let owned = |users: Vec<&str>| users.into_iter().map(str::to_owned).collect();
        room.entries.push(SeenEntry {
            seq: None,
            prev_seq: None,
            ordinal,
            conversation: room.name.clone(),
            conversation_seq: seq,
            kind: kind.to_owned(),
            sender: sender.to_owned(),
            id: id.to_owned(),
            body_hash: format!("hash of {id}"),
            body: (kind == "message").then(|| format!("{sender}|{}|{id}", room.name)),
            body_matches: true,
            added: owned(added),
            removed: owned(removed),
        });
        // Those who were there, and those who came.
        let came = room.members.iter().filter(|user| !before.contains(user)).copied().collect::<Vec<_>>();
        let owed: Vec<_> = before.into_iter().chain(came).collect();
        room.owed.push(owed.clone());
        let index = room.entries.len() - 1;
        let mut due = Vec::new();
        for user in owed {
            let time = now + self.rng.random_range(1..1_500);
            let last = room.due.entry(user).or_default();
            *last = time.max(*last);
            due.push((*last, user));
        }
        for (time, user) in due {
            self.at(time, What::Deliver(user, place, index));
        }
        Some(seq)
    }

    fn deliver(&mut self, user: &'static str, room: usize, index: usize) {
        let entry = &self.rooms[room].entries[index];
        let inbox = self.inboxes.get_mut(user).expect("every user has an inbox");
        let last = inbox.last();
        let gap = if self.rng.random_ratio(1, 10) { self.rng.random_range(1..20) } else { 0 };
        let prev_seq = last.and_then(|last| last.seq);
        let seq = Some(prev_seq.unwrap_or(0) + 1 + gap);
        let ordinal = last.map_or(0, |last| last.ordinal) + u64::from(entry.kind == "message");
        inbox.push(SeenEntry { seq, prev_seq, ordinal, ..entry.clone() });
    }

    fn read(&mut self, now: u64, room: usize) {
        let interval = around(self.rng, now);
        let limit = if self.rng.random_bool(0.6) { 0 } else { self.rng.random_range(1..10) };
        let last = self.rooms[room].entries.last().map_or(1, |entry| entry.conversation_seq);
        let from = if self.rng.random_bool(0.5) { 1 } else { self.rng.random_range(1..=last + 5) };
        let op = self.sync(room, from, limit, interval);
        self.story.ops.push(op);
    }

    fn sync(&self, room: usize, from: u64, limit: usize, interval: (u64, u64)) -> Op {
        let room = &self.rooms[room];
        let entries = room.entries.iter().filter(|entry| entry.conversation_seq >= from);
        let most = if limit == 0 { usize::MAX } else { limit };
        let items =
            entries.take(most).map(|entry| Item { seq: entry.conversation_seq, id: entry.id.clone() }).collect();
        let op = Op::new(800, &room.name, Function::Sync, interval, Ended::Ok);
        Op { from: Some(from), limit: Some(limit as u64), items: Some(items), ..op }
    }

    /// Everything is read once more.
    fn finish(&mut self, now: u64) {
        for room in 0..self.rooms.len() {
            let op = self.sync(room, 1, 0, (now, now + 10));
            self.story.ops.push(op);
            let room = &self.rooms[room];
            let mut readers: Vec<&str> = room.owed.iter().flatten().copied().collect();
            readers.sort_unstable();
            readers.dedup();
            for (place, user) in readers.into_iter().enumerate() {
                let owed = room.entries.iter().zip(&room.owed).filter(|(_, owed)| owed.contains(&user));
                self.story.reads.push(ConversationRead {
                    conversation: room.name.clone(),
                    user: user.to_owned(),
                    gateway: format!("gateway-{}", place % 2 + 1),
                    call: now,
                    ret: now + 10,
                    entries: owed.map(|(entry, _)| entry.clone()).collect(),
                });
            }
        }
        for device in self.devices.iter().filter(|device| device.name == "phone") {
            for gateway in ["gateway-1", "gateway-2"] {
                device.sync_all(self.rng, now, gateway, &self.inboxes[device.user], &mut self.story);
            }
        }
    }
}
