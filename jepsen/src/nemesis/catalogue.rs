//! Catalogue: every kind of fault, what it needs, and whether the product must survive it today.

use super::acts::{Act, Acting};
use super::boot::{Boot, BootBend};
use super::certificate::Certificate;
use super::clock::{Bend, Clock};
use super::crash::Crash;
use super::damage::{Damage, Harm};
use super::disk::{Disk, Illness, PowerCut};
use super::kill::Kill;
use super::lease::ZombieHolder;
use super::link::{Flap, Rate};
use super::membership::{Change, Membership};
use super::packet::{Mishap, Packet};
use super::partition::Partition;
use super::pause::Pause;
use super::shape::Shape;
use super::targets::Target;
use super::version::Version;
use super::{Hold, Nemesis};
use crate::cluster::{CHAOS_PROGRAM, Cluster, DiskKind, Links, NetworkKind, Role, clocks_can_be_bent};

/// The kind that may break I2 of counters, and nothing else.
pub(crate) const BOOT_BEYOND: &str = "boot-beyond";

/// Voters of a group that nobody asked for more.
const VOTERS: usize = 3;

/// What a cluster must have for a kind to be possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// nothing
    Nothing,
    /// a network of its own for each node
    Namespaces,
    /// namespaces, and clients that are devices at the gateways
    Devices,
    /// so many stores and namespaces
    Stores(usize),
    /// a store more than groups have voters
    Joiners,
    /// the nodes on a switch of our own
    Switch,
    /// stores on a disk of their own that can be filled: [`DiskKind::Tmpfs`]
    SmallDisk,
    /// stores on a disk that can fail: [`DiskKind::Fuse`]
    BadDisk,
    /// wall clocks that can be bent
    BentClocks,
    /// nodes of the test build
    ChaosBuild,
    /// nodes that show each other certificates
    Mtls,
    /// a binary of another version
    OtherVersion,
}

/// A kind of fault.
pub struct Kind {
    /// such as `kill-leader`
    pub name: &'static str,
    /// such as `kill`; names on the command line are kinds or families
    pub family: &'static str,
    /// one sentence
    pub about: &'static str,
    /// is it in the set `all`: must the product survive it today?
    pub in_all: bool,
    /// what the cluster must have
    pub needs: Needs,
    /// how long it lasts
    pub hold: Hold,
    /// a new one
    pub make: fn() -> Box<dyn Nemesis>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        self.name == other.name
    }
}

impl Kind {
    /// Does it only hurt what passes between gateways and devices?
    pub(crate) fn hurts_devices_only(&self) -> bool {
        self.needs == Needs::Devices
    }
}

/// Most kinds last between these: longer than an election, shorter than patience.
const WHILE: Hold = Hold::ms(1_000, 8_000);

macro_rules! kinds {
    ($in_all:literal $($family:literal { $($name:literal $needs:expr, $hold:expr, $about:literal => $make:expr;)* })*) => {
        &[$($(Kind {
            name: $name, family: $family, about: $about, in_all: $in_all, needs: $needs, hold: $hold, make: || $make,
        },)*)*]
    };
}

/// All kinds that a correct cluster of today survives.
static SURVIVABLE: &[Kind] = kinds! { true
    "kill" {
        "kill-store" Needs::Nothing, Hold::ms(0, 10_000), "SIGKILL of one store" => Kill::boxed(Target::One(Role::Store));
        "kill-leader" Needs::Nothing, Hold::ms(0, 10_000), "SIGKILL of the store that leads most groups"
            => Kill::boxed(Target::Leader);
        "kill-minority" Needs::Nothing, Hold::ms(0, 6_000), "SIGKILL of as many stores as may fail at once"
            => Kill::boxed(Target::MinorityOfStores);
        "kill-all-stores" Needs::Nothing, Hold::ms(0, 500), "SIGKILL of all stores at once, restarted at once"
            => Kill::boxed(Target::AllStores);
        "kill-logic" Needs::Nothing, Hold::ms(0, 8_000), "SIGKILL of one logic node"
            => Kill::boxed(Target::One(Role::Logic));
        "kill-holder" Needs::Nothing, Hold::ms(0, 8_000), "SIGKILL of the logic node that holds most slots"
            => Kill::boxed(Target::Holder);
        "kill-gateway" Needs::Nothing, Hold::ms(0, 5_000), "SIGKILL of one gateway"
            => Kill::boxed(Target::One(Role::Gateway));
    }
    "crash" {
        "crash-point" Needs::ChaosBuild, Hold::ms(0, 5_000), "a node crashes by itself at a named point of its program"
            => Box::new(Crash::default());
    }
    "pause" {
        "pause-store" Needs::Nothing, Hold::ms(100, 15_000), "SIGSTOP of one store for a while"
            => Pause::boxed(Target::One(Role::Store));
        "pause-leader" Needs::Nothing, Hold::ms(100, 15_000), "SIGSTOP of the store that leads most groups"
            => Pause::boxed(Target::Leader);
        "pause-minority" Needs::Nothing, Hold::ms(100, 6_000), "SIGSTOP of as many stores as may fail at once"
            => Pause::boxed(Target::MinorityOfStores);
        "pause-all-stores" Needs::Nothing, Hold::ms(100, 3_000), "SIGSTOP of all stores at once"
            => Pause::boxed(Target::AllStores);
        "pause-logic" Needs::Nothing, Hold::ms(100, 10_000), "SIGSTOP of one logic node"
            => Pause::boxed(Target::One(Role::Logic));
        "pause-gateway" Needs::Nothing, Hold::ms(100, 8_000), "SIGSTOP of one gateway"
            => Pause::boxed(Target::One(Role::Gateway));
    }
    "lease" {
        "zombie-holder" Needs::Nothing, Hold::ms(3_000, 6_000), "a holder sleeps past its lease and wakes up believing"
            => Box::new(ZombieHolder::default());
    }
    "partition" {
        "partition-halves" Needs::Namespaces, WHILE, "all nodes into two halves" => Partition::boxed(Shape::Halves);
        "partition-one" Needs::Namespaces, WHILE, "one store from everybody" => Partition::boxed(Shape::OneStore);
        "partition-leader" Needs::Namespaces, WHILE, "the store that leads most groups from everybody"
            => Partition::boxed(Shape::Leader);
        "partition-ring" Needs::Stores(4), WHILE, "every store sees another majority"
            => Partition::boxed(Shape::Ring);
        "partition-bridge" Needs::Stores(3), WHILE, "two halves of stores, and one that sees both"
            => Partition::boxed(Shape::Bridge);
        "partition-one-way" Needs::Namespaces, WHILE, "one store hears the others, or is heard, but not both"
            => Partition::boxed(Shape::OneWay);
        "cut-clients" Needs::Devices, WHILE, "a gateway from its clients" => Partition::boxed(Shape::Clients);
        "cut-gateway" Needs::Namespaces, WHILE, "a gateway from all logic nodes"
            => Partition::boxed(Shape::GatewayFromLogic);
        "cut-logic" Needs::Namespaces, WHILE, "a logic node from all stores: its leases end"
            => Partition::boxed(Shape::LogicFromStores);
        "cut-peers" Needs::Namespaces, WHILE, "a logic node from the other logic nodes: deliveries stop"
            => Partition::boxed(Shape::LogicFromLogic);
    }
    "packet" {
        "loss" Needs::Namespaces, WHILE, "5 to 30 % of the packets between all nodes are lost"
            => Partition::loss(Shape::Everything);
        "loss-clients" Needs::Devices, WHILE, "5 to 30 % of the packets of all clients are lost"
            => Partition::loss(Shape::AllClients);
        "rate" Needs::Namespaces, WHILE, "what one node is sent trickles at some hundred kbit/s"
            => Box::new(Rate::default());
        "flap" Needs::Namespaces, Hold::ms(100, 3_000), "the link of one node goes down and up and down"
            => Box::new(Flap::default());
        "delay" Needs::Switch, WHILE, "what one node sends, is sent, or both comes 5 to 200 ms late"
            => Packet::boxed(Mishap::Delay);
        "jitter" Needs::Switch, WHILE, "packets of one node come up to 100 ms late, each by another time, in order"
            => Packet::boxed(Mishap::Jitter);
        "duplicate" Needs::Switch, WHILE, "5 to 30 % of the packets of one node come twice"
            => Packet::boxed(Mishap::Duplicate);
        "reorder" Needs::Switch, WHILE, "5 to 30 % of the packets of one node are overtaken by others"
            => Packet::boxed(Mishap::Reorder);
        "corrupt" Needs::Switch, WHILE, "0.1 to 5 % of the packets of one node come with flipped bits"
            => Packet::boxed(Mishap::Corrupt);
    }
    "clock" {
        "clock-jump" Needs::BentClocks, Hold::ms(2_000, 10_000), "one node's wall clock jumps by seconds to minutes"
            => Clock::boxed(Bend::Jump);
        "clock-strobe" Needs::BentClocks, Hold::ms(4_000, 10_000), "one node's wall clock jumps to and fro"
            => Clock::boxed(Bend::Strobe);
        "clock-drift" Needs::BentClocks, Hold::ms(4_000, 10_000), "one node's wall clock runs too fast"
            => Clock::boxed(Bend::Drift);
    }
    "boot" {
        "boot-rate" Needs::ChaosBuild, Hold::ms(2_000, 10_000), "one node's boot time, which leases go by, runs 2 to 6 % wrong"
            => Boot::boxed(BootBend::Within);
        "boot-jump" Needs::ChaosBuild, Hold::ms(100, 2_000), "one node's boot time jumps forward, as after a sleep"
            => Boot::boxed(BootBend::Jump);
        "boot-beyond" Needs::ChaosBuild, Hold::ms(2_000, 6_000), "one node's boot time runs many times wrong: two holders may answer at once"
            => Boot::boxed(BootBend::Beyond);
    }
    "disk" {
        "disk-full" Needs::BadDisk, WHILE, "one store's disk has no space left"
            => Disk::boxed(Illness::Full, Target::One(Role::Store));
        "disk-eio" Needs::BadDisk, WHILE, "one store's fsyncs fail: it must stop, and what was not synced is lost"
            => Disk::boxed(Illness::FsyncFails, Target::One(Role::Store));
        "disk-slow" Needs::BadDisk, WHILE, "one store's fsyncs take 50 to 500 ms longer"
            => Disk::boxed(Illness::Slow, Target::One(Role::Store));
        "disk-stall" Needs::BadDisk, Hold::ms(500, 10_000), "no write of one store ends"
            => Disk::boxed(Illness::Stalled, Target::One(Role::Store));
        "disk-stall-leader" Needs::BadDisk, Hold::ms(500, 10_000), "no write of the store that leads most groups ends"
            => Disk::boxed(Illness::Stalled, Target::Leader);
        "disk-fill" Needs::SmallDisk, WHILE, "one store's small disk is filled to the last byte"
            => Box::new(super::fill::Fill::default());
    }
    "power" {
        "power-cut" Needs::BadDisk, Hold::ms(0, 8_000), "one store is killed and loses what it had not fsynced"
            => PowerCut::boxed(Target::One(Role::Store));
        "power-cut-leader" Needs::BadDisk, Hold::ms(0, 8_000), "the same of the store that leads most groups"
            => PowerCut::boxed(Target::Leader);
        "power-cut-all" Needs::BadDisk, Hold::ms(0, 500), "the same of all stores at once, restarted at once"
            => PowerCut::boxed(Target::AllStores);
    }
    "membership" {
        "move-replica" Needs::Joiners, WHILE, "a replica moves to a store that has none of its group"
            => Membership::boxed(Change::Move);
        "move-back" Needs::Joiners, WHILE, "the same, turned back on the way"
            => Membership::boxed(Change::MoveBack);
        "drain-store" Needs::Joiners, WHILE, "a store gives all its replicas away, and takes some again"
            => Membership::boxed(Change::Drain);
        "transfer-leader" Needs::Nothing, Hold::ms(0, 0), "another store of a group is made its leader"
            => Membership::boxed(Change::Transfer);
    }
    "certificate" {
        "change-ca" Needs::Mtls, WHILE, "all nodes get certificates of a new CA, and the old one is taken away"
            => Box::new(Certificate::default());
    }
    "restart" {
        "restart-store" Needs::Nothing, Hold::ms(0, 0), "a store stops in order and starts"
            => Acting::boxed(Act::Restart(Role::Store));
        "restart-logic" Needs::Nothing, Hold::ms(0, 0), "a logic node stops in order and starts"
            => Acting::boxed(Act::Restart(Role::Logic));
        "restart-gateway" Needs::Nothing, Hold::ms(0, 0), "a gateway stops in order and starts"
            => Acting::boxed(Act::Restart(Role::Gateway));
        "rolling-restart" Needs::Nothing, Hold::ms(0, 0), "every store in turn stops in order and starts"
            => Acting::boxed(Act::RollingRestart);
        "gateway-storm" Needs::Nothing, Hold::ms(0, 0), "a gateway is killed and started again and again"
            => Acting::boxed(Act::GatewayStorm);
    }
    "version" {
        "other-store" Needs::OtherVersion, Hold::ms(2_000, 20_000), "a store runs the other version for a while"
            => Version::boxed(Target::One(Role::Store));
        "other-logic" Needs::OtherVersion, Hold::ms(2_000, 20_000), "a logic node runs the other version for a while"
            => Version::boxed(Target::One(Role::Logic));
        "other-gateway" Needs::OtherVersion, Hold::ms(2_000, 20_000), "a gateway runs the other version for a while"
            => Version::boxed(Target::One(Role::Gateway));
        "roll-version" Needs::OtherVersion, Hold::ms(2_000, 10_000), "all nodes, one by one, to the other version and back"
            => Version::boxed(Target::Everybody);
    }
};

/// Kinds that today's product answers by refusing to start: nothing rebuilds a replica yet.
static ON_REQUEST: &[Kind] = kinds! { false
    "damage" {
        "damage-flip" Needs::Nothing, WHILE, "one bit of a stopped store's files is flipped"
            => Damage::boxed(Harm::FlipBit);
        "damage-truncate" Needs::Nothing, WHILE, "the end of one of a stopped store's files is cut off"
            => Damage::boxed(Harm::Truncate);
        "damage-zero" Needs::Nothing, WHILE, "a range of one of a stopped store's files is zeroed"
            => Damage::boxed(Harm::Zero);
        "damage-lost" Needs::Nothing, WHILE, "all of a stopped store's files are gone"
            => Damage::boxed(Harm::LoseDisk);
    }
};

/// All kinds.
#[derive(Debug)]
pub struct Catalogue;

impl Catalogue {
    /// Every kind, in the order in which people read them.
    pub fn kinds() -> impl Iterator<Item = &'static Kind> {
        SURVIVABLE.iter().chain(ON_REQUEST)
    }

    /// Kinds by names: kinds, families, `all`, `none`; an error names what is unknown.
    pub fn select(names: &[&str]) -> Result<Vec<&'static Kind>, String> {
        let mut selected: Vec<&'static Kind> = Vec::new();
        for name in names {
            let before = selected.len();
            let wanted = |kind: &Kind| kind.name == *name || kind.family == *name || (*name == "all" && kind.in_all);
            let mut known = *name == "none";
            for kind in Catalogue::kinds().filter(|kind| wanted(kind)) {
                known = true;
                if !selected[..before].contains(&kind) {
                    selected.push(kind);
                }
            }
            if !known {
                return Err(format!("`{name}` is no fault and no family of faults; `jepsen list` names them"));
            }
        }
        Ok(selected)
    }

    /// Which of these can be done to this cluster, and why the others cannot.
    pub fn possible(kinds: &[&'static Kind], cluster: &Cluster) -> (Vec<&'static Kind>, Vec<(&'static str, String)>) {
        let mut possible = Vec::new();
        let mut impossible = Vec::new();
        for kind in kinds {
            match lack(kind.needs, cluster) {
                None => possible.push(*kind),
                Some(why) => impossible.push((kind.name, why)),
            }
        }
        (possible, impossible)
    }
}

fn lack(needs: Needs, cluster: &Cluster) -> Option<String> {
    let (stores, config) = (cluster.names(Role::Store).len(), cluster.config());
    let no_namespaces = (cluster.network() == NetworkKind::Loopback)
        .then(|| "the nodes share the loopback: no fault of the network can be made".to_owned());
    match needs {
        Needs::Nothing => None,
        Needs::Namespaces | Needs::Devices => no_namespaces,
        Needs::Stores(wanted) if stores < wanted => Some(format!("it needs {wanted} stores, and there are {stores}")),
        Needs::Stores(_) => no_namespaces,
        Needs::Joiners => (stores <= VOTERS.max(config.founders as usize))
            .then(|| format!("all {stores} stores have a replica of each group: none can move")),
        Needs::Switch => (cluster.network() != NetworkKind::Switch)
            .then(|| "the nodes are not on a switch of our own (--network switch)".to_owned()),
        Needs::SmallDisk => (!matches!(config.disk, DiskKind::Tmpfs { .. }))
            .then(|| "the stores have no small disks of their own (--disk tmpfs)".to_owned()),
        Needs::BadDisk => {
            (config.disk != DiskKind::Fuse).then(|| "the stores have no disks that can fail (--disk fuse)".to_owned())
        }
        Needs::ChaosBuild => (config.program != CHAOS_PROGRAM)
            .then(|| "the nodes are no test build: they have no named points (--build chaos)".to_owned()),
        Needs::Mtls => (config.links != Links::Mtls).then(|| "the nodes speak plaintext (--links mtls)".to_owned()),
        Needs::OtherVersion => {
            config.other.is_none().then(|| "there is no other version to run beside it (--other FOLDER)".to_owned())
        }
        Needs::BentClocks if config.bendable_clocks => None,
        Needs::BentClocks if clocks_can_be_bent() => Some("the cluster was started with true clocks".to_owned()),
        Needs::BentClocks => Some("libfaketime is not installed (package faketime)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own_that_is_no_family() {
        let names: Vec<&str> = Catalogue::kinds().map(|kind| kind.name).collect();
        let families: BTreeSet<&str> = Catalogue::kinds().map(|kind| kind.family).collect();
        let different: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(different.len(), names.len());
        for reserved in ["all", "none"] {
            assert!(!different.contains(reserved) && !families.contains(reserved));
        }
    }

    #[test]
    fn the_set_all_has_more_than_twenty_kinds() {
        assert!(Catalogue::select(&["all"]).unwrap().len() > 20);
    }

    #[test]
    fn a_kind_named_twice_is_selected_once() {
        let selected = Catalogue::select(&["kill-store", "kill", "kill-store", "none"]).unwrap();
        let names: Vec<&str> = selected.iter().map(|kind| kind.name).collect();
        assert_eq!(names.iter().filter(|name| **name == "kill-store").count(), 1);
        assert!(names.contains(&"kill-leader") && !names.contains(&"pause-store"), "{names:?}");
    }

    #[test]
    fn an_unknown_name_is_refused_and_named() {
        assert!(Catalogue::select(&["kill", "flood"]).unwrap_err().contains("flood"));
    }
}
