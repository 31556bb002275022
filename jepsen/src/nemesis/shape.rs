//! Shape: which flows a partition cuts: pure, from names and a seed.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::cluster::Flow;

/// Names of all nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) stores: Vec<String>,
    pub(super) logic: Vec<String>,
    pub(super) gateways: Vec<String>,
}

/// How a partition lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// the stores into majority and minority, and everybody else on a random side
    Halves,
    /// one store from everybody
    OneStore,
    /// the store that leads most groups from everybody
    Leader,
    /// every store sees a majority, and no two the same
    Ring,
    /// one store sees all others, which see only their half
    Bridge,
    /// what one store sends to the other stores, or what they send to it, gets lost
    OneWay,
    /// a gateway from its clients
    Clients,
    /// a gateway from all logic nodes
    GatewayFromLogic,
    /// a logic node from all stores: its leases end
    LogicFromStores,
    /// a logic node from the other logic nodes: deliveries stop
    LogicFromLogic,
    /// packets between all nodes, for loss
    Everything,
    /// packets of all clients, for loss
    AllClients,
}

/// What is cut, and who is named as hit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lie {
    pub(super) flows: BTreeSet<Flow>,
    pub(super) targets: Vec<String>,
    pub(super) detail: String,
}

impl Shape {
    /// Draws where it lies; the error says why it cannot.
    pub(super) fn draw(self, names: &Names, leader: Option<String>, rng: &mut StdRng) -> Result<Lie, String> {
        let Names { stores, logic, gateways } = names;
        let every: Vec<String> = [stores, logic, gateways].into_iter().flatten().cloned().collect();
        let pick = |from: &[String], rng: &mut StdRng| from.choose(rng).cloned().ok_or("there is nobody to cut off");
        match self {
            Shape::Halves => halves(names, rng),
            Shape::OneStore => Ok(alone(&pick(stores, rng)?, &every, "everybody")),
            Shape::Leader => Ok(alone(&leader.ok_or("no store says that it leads")?, &every, "everybody")),
            Shape::Ring => ring(stores, rng),
            Shape::Bridge => bridge(stores, rng),
            Shape::OneWay => one_way(stores, rng),
            Shape::Clients => {
                let gateway = pick(gateways, rng)?;
                let flows = BTreeSet::from([Flow::ToNode(gateway.clone()), Flow::FromNode(gateway.clone())]);
                Ok(Lie { flows, detail: format!("{gateway} from its clients"), targets: vec![gateway] })
            }
            Shape::GatewayFromLogic => Ok(alone(&pick(gateways, rng)?, logic, "all logic nodes")),
            Shape::LogicFromStores => Ok(alone(&pick(logic, rng)?, stores, "all stores")),
            Shape::LogicFromLogic if logic.len() < 2 => Err("there is one logic node only".to_owned()),
            Shape::LogicFromLogic => Ok(alone(&pick(logic, rng)?, logic, "the other logic nodes")),
            Shape::Everything => {
                let flows = between(&every, &every);
                Ok(Lie { flows, targets: every, detail: "packets between all nodes".to_owned() })
            }
            Shape::AllClients => {
                let both = |name: &String| [Flow::ToNode(name.clone()), Flow::FromNode(name.clone())];
                let flows = gateways.iter().flat_map(both).collect();
                Ok(Lie { flows, targets: gateways.clone(), detail: "packets of all clients".to_owned() })
            }
        }
    }
}

/// Both directions between any two of different lists.
fn between(some: &[String], others: &[String]) -> BTreeSet<Flow> {
    let pairs = some.iter().flat_map(|a| others.iter().map(move |b| (a, b))).filter(|(a, b)| a != b);
    pairs.flat_map(|(a, b)| [flow(a, b), flow(b, a)]).collect()
}

fn flow(from: &str, to: &str) -> Flow {
    Flow::Between { from: from.to_owned(), to: to.to_owned() }
}

fn alone(one: &str, others: &[String], whom: &str) -> Lie {
    let flows = between(&[one.to_owned()], others);
    Lie { flows, targets: vec![one.to_owned()], detail: format!("{one} from {whom}") }
}

fn halves(names: &Names, rng: &mut StdRng) -> Result<Lie, String> {
    if names.stores.len() < 2 {
        return Err("one store has no halves".to_owned());
    }
    let mut stores = names.stores.clone();
    stores.shuffle(rng);
    let mut minority = stores.split_off(stores.len() / 2 + 1);
    let mut majority = stores;
    for node in names.logic.iter().chain(&names.gateways) {
        let side = if rng.random_bool(0.5) { &mut minority } else { &mut majority };
        side.push(node.clone());
    }
    let detail = format!("[{}] from [{}]", majority.join(" "), minority.join(" "));
    Ok(Lie { flows: between(&majority, &minority), targets: minority, detail })
}

fn ring(stores: &[String], rng: &mut StdRng) -> Result<Lie, String> {
    let count = stores.len();
    // So many neighbours on each side make a majority, with oneself.
    let reach = count.div_euclid(2).div_ceil(2);
    if count < 4 || 2 * reach + 1 >= count {
        return Err(format!("of {count} stores every ring is whole"));
    }
    let mut order = stores.to_vec();
    order.shuffle(rng);
    let mut flows = BTreeSet::new();
    for a in 0..count {
        for b in 0..count {
            let distance = (a + count - b) % count;
            if distance.min(count - distance) > reach {
                flows.insert(flow(&order[a], &order[b]));
            }
        }
    }
    Ok(Lie { flows, detail: format!("ring {}", order.join(" ")), targets: order })
}

fn bridge(stores: &[String], rng: &mut StdRng) -> Result<Lie, String> {
    if stores.len() < 3 {
        return Err("a bridge needs three stores".to_owned());
    }
    let mut order = stores.to_vec();
    order.shuffle(rng);
    let right = order.split_off(1 + (order.len() - 1).div_ceil(2));
    let (middle, left) = order.split_first().expect("three stores or more");
    let detail = format!("[{}] from [{}], {middle} sees both", left.join(" "), right.join(" "));
    Ok(Lie { flows: between(left, &right), targets: right, detail })
}

fn one_way(stores: &[String], rng: &mut StdRng) -> Result<Lie, String> {
    let one = stores.choose(rng).ok_or("there are no stores")?;
    let others = stores.iter().filter(|other| *other != one);
    let mute = rng.random_bool(0.5);
    let flows: BTreeSet<Flow> = if mute {
        others.map(|other| flow(one, other)).collect()
    } else {
        others.map(|other| flow(other, one)).collect()
    };
    if flows.is_empty() {
        return Err("one store has nobody to lose".to_owned());
    }
    let detail = format!("{one} {}", if mute { "is not heard by the other stores" } else { "hears no other store" });
    Ok(Lie { flows, targets: vec![one.clone()], detail })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn names(stores: usize) -> Names {
        let some = |role: &str, count| (1..=count).map(|number| format!("{role}-{number}")).collect();
        Names { stores: some("store", stores), logic: some("logic", 3), gateways: some("gateway", 2) }
    }

    fn draw(shape: Shape, stores: usize, seed: u64) -> Lie {
        shape.draw(&names(stores), Some("store-1".to_owned()), &mut StdRng::seed_from_u64(seed)).unwrap()
    }

    fn sees(lie: &Lie, one: &str, stores: usize) -> BTreeSet<String> {
        let cut = |other: &String| lie.flows.contains(&flow(one, other)) || lie.flows.contains(&flow(other, one));
        names(stores).stores.into_iter().filter(|other| other == one || !cut(other)).collect()
    }

    #[test]
    fn in_a_ring_every_store_sees_another_majority() {
        for (seed, stores) in (0..50).flat_map(|seed| [5, 7, 9].map(|stores| (seed, stores))) {
            let lie = draw(Shape::Ring, stores, seed);
            let views: Vec<_> = names(stores).stores.iter().map(|one| sees(&lie, one, stores)).collect();
            for view in &views {
                assert!(view.len() > stores / 2 && view.len() < stores, "{stores} stores, seed {seed}: {view:?}");
            }
            assert_eq!(views.iter().collect::<BTreeSet<_>>().len(), stores, "{stores} stores, seed {seed}");
        }
        for stores in [1, 3] {
            let refused = Shape::Ring.draw(&names(stores), None, &mut StdRng::seed_from_u64(1));
            assert!(refused.is_err(), "{stores} stores");
        }
    }

    #[test]
    fn halves_leave_a_majority_that_sees_itself() {
        for seed in 0..50 {
            let lie = draw(Shape::Halves, 5, seed);
            let sizes: BTreeSet<usize> = names(5).stores.iter().map(|one| sees(&lie, one, 5).len()).collect();
            assert_eq!(sizes, BTreeSet::from([2, 3]), "seed {seed}");
        }
    }

    #[test]
    fn one_store_sees_over_a_bridge() {
        for seed in 0..50 {
            let lie = draw(Shape::Bridge, 5, seed);
            let all = names(5).stores.iter().filter(|one| sees(&lie, one, 5).len() == 5).count();
            assert_eq!(all, 1, "seed {seed}");
        }
    }

    #[test]
    fn one_way_cuts_one_direction_of_one_store() {
        for seed in 0..50 {
            let lie = draw(Shape::OneWay, 5, seed);
            assert_eq!(lie.flows.len(), 4);
            let back = |flow: &Flow| match flow {
                Flow::Between { from, to } => Flow::Between { from: to.clone(), to: from.clone() },
                other => other.clone(),
            };
            assert!(lie.flows.iter().all(|flow| !lie.flows.contains(&back(flow))), "seed {seed}");
        }
    }

    #[test]
    fn the_same_seed_lies_the_same() {
        for shape in [Shape::Halves, Shape::Ring, Shape::Bridge, Shape::OneWay, Shape::OneStore, Shape::Clients] {
            assert_eq!(draw(shape, 5, 7), draw(shape, 5, 7));
        }
        let lies: Vec<Lie> = (0..20).map(|seed| draw(Shape::Halves, 5, seed)).collect();
        assert!(lies.iter().any(|lie| *lie != lies[0]), "twenty seeds lie the same");
    }
}
