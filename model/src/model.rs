//! Check: a scene as a model of `stateright`, and the report of a run.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::action::Action;
use crate::broken::Broken;
use crate::reached::Reached;
use crate::scene::Scene;
use crate::state::State;

/// A scene to be checked.
#[derive(Clone, Debug)]
pub struct Check {
    pub(crate) scene: Scene,
    pub(crate) reached: Reached,
    at_most: Option<Duration>,
}

impl Model for Check {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.scene.begin()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.collect(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.step(last, action)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.in_flight() <= self.scene.bounds.in_flight
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! never {
            ($($name:literal => $broken:pat,)*) => {
                vec![
                    Property::always(I2_NUMBERS, |_, state: &State| !state.disordered),
                    $(Property::always($name, |_, state: &State| !matches!(state.broken(), Some($broken))),)*
                ]
            };
        }
        never! {
            "I1" => Broken::I1(_),
            "I2" => Broken::I2(_),
            "I3" => Broken::I3(_),
            "I4" => Broken::I4(_),
            "I5" => Broken::I5(_),
            "I7" => Broken::I7(_),
            "I8" => Broken::I8(_),
            "I9" => Broken::I9(_),
            "answers are true" => Broken::Answer(_),
            "nobody waits for ever" => Broken::Stuck(_),
            "no alarm" => Broken::Alarm(_),
            "no panic" => Broken::Panic(_),
        }
    }
}

/// What a run saw.
#[derive(Debug)]
pub struct Report {
    /// of the scene
    pub name: &'static str,
    /// different states
    pub states: usize,
    /// steps, most of which lead to a state that was seen before
    pub steps: usize,
    /// longest way from the begin
    pub depth: usize,
    /// how long it took
    pub seconds: f64,
    /// Was every state visited that can be reached, or a broken one found?
    pub whole: bool,
    /// properties that do not hold, each with the steps that lead there
    pub broken: Vec<(&'static str, String)>,
    /// situations that were seen
    pub reached: Reached,
}

impl Check {
    /// Prepares to check a scene.
    pub fn new(scene: Scene) -> Self {
        Self { scene, reached: Reached::default(), at_most: None }
    }

    /// Gives up after this time: the report then is not [`Report::whole`].
    #[must_use]
    pub fn at_most(self, time: Duration) -> Self {
        Self { at_most: Some(time), ..self }
    }

    /// Visits every state, or stops when one of the properties does not hold in one.
    pub fn run(self) -> Report {
        self.run_until(HasDiscoveries::Any)
    }

    /// Visits every state, whatever holds.
    pub fn run_to_the_end(self) -> Report {
        self.run_until(HasDiscoveries::All)
    }

    fn run_until(self, finish: HasDiscoveries) -> Report {
        let (name, reached, began) = (self.scene.name, self.reached.clone(), Instant::now());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let check = self.clone();
        let at_most = self.at_most;
        let builder = self.checker().threads(threads).finish_when(finish);
        let builder = if let Some(time) = at_most { builder.timeout(time) } else { builder };
        let checker = builder.spawn_dfs().join();
        let took = began.elapsed();
        let found = checker.discoveries().into_iter();
        let broken = found.map(|(property, path)| (property, check.story(path.into_actions()))).collect();
        Report {
            name,
            states: checker.unique_state_count(),
            steps: checker.state_count(),
            depth: checker.max_depth(),
            seconds: took.as_secs_f64(),
            whole: at_most.is_none_or(|time| took < time),
            broken,
            reached,
        }
    }

    /// The steps as text, with what arrives, and what is broken in the end.
    fn story(&self, actions: Vec<Action>) -> String {
        let (mut state, mut text) = (self.scene.begin(), String::new());
        for action in actions {
            text += &match action {
                Action::Arrive { wire, .. }
                | Action::Lose { wire }
                | Action::Late { wire }
                | Action::Double { wire, .. } => format!("{action:?} {:?}\n", *state.wires[wire]),
                action => format!("{action:?}\n"),
            };
            state = self.step(&state, action).expect("a step that was taken before");
        }
        format!("{text}{:?}\n", state.broken)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, states, steps, depth, seconds, .. } = self;
        let cut = if self.whole { "" } else { ", given up" };
        writeln!(f, "{name}: {states} states, {steps} steps, depth {depth}, {seconds:.1} s{cut}")?;
        writeln!(f, "  reached {:?}", self.reached.counts())?;
        self.broken.iter().try_for_each(|(property, story)| writeln!(f, "  broken: {property}\n{story}"))
    }
}

/// The one property that rests on the clocks.
pub const I2_NUMBERS: &str = "I2 of Next and Current";
