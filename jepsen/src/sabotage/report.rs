//! Report: which bugs were caught, by what, and whether they were caught because of what was planted.

use serde_json::json;
use seriatim_proto::chaos::Sabotage;

use super::Sighting;

/// What came of one bug.
#[derive(Clone, Debug)]
pub struct Line {
    /// which
    pub sabotage: Sabotage,
    /// its scenario, in a few words
    pub about: &'static str,
    /// with the bug
    pub planted: Sighting,
    /// how long that took, s
    pub planted_s: f64,
    /// the same without the bug; `None`: not played
    pub control: Option<Sighting>,
    /// how long that took, s
    pub control_s: f64,
    /// whose control it was, if another bug with the same scenario had one
    pub control_of: Option<Sabotage>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// in the order in which they were planted
    pub lines: Vec<Line>,
}

impl Line {
    /// Caught, and nothing was found without it. Where no control was played, the first half must do.
    pub fn is_caught(&self) -> bool {
        self.planted.is_caught() && self.control.as_ref().is_none_or(|control| *control == Sighting::Clean)
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.is_caught() { "caught" } else { "MISSED" };
        let by = match &self.planted {
            Sighting::Caught { by, .. } => by.clone(),
            other => short(other),
        };
        let mut control = self.control.as_ref().map_or_else(|| "not played".to_owned(), short);
        if let Some(other) = self.control_of {
            control.push_str(&format!(", that of {}", other.name()));
        }
        write!(
            f,
            "{:<24} {word}  by {by:<34} {:>4.0} s  control: {control} {:>4.0} s  ({})",
            self.sabotage.name(),
            self.planted_s,
            self.control_s,
            self.about
        )?;
        match &self.planted {
            Sighting::Caught { what, .. } => write!(f, "\n    {}", cut(what)),
            Sighting::Vacuous(why) | Sighting::Broken(why) => write!(f, "\n    {}", cut(why)),
            Sighting::Clean => Ok(()),
        }?;
        match &self.control {
            Some(Sighting::Caught { what, .. } | Sighting::Vacuous(what) | Sighting::Broken(what)) => {
                write!(f, "\n    control: {}", cut(what))
            }
            _ => Ok(()),
        }
    }
}

fn short(sighting: &Sighting) -> String {
    match sighting {
        Sighting::Caught { by, .. } => format!("NOT CLEAN, {by}"),
        Sighting::Clean => "clean".to_owned(),
        Sighting::Vacuous(_) => "proves too little".to_owned(),
        Sighting::Broken(_) => "broken".to_owned(),
    }
}

fn cut(text: &str) -> String {
    const CHARS_MAX: usize = 400;
    text.chars().take(CHARS_MAX).collect::<String>().replace('\n', "\n    ")
}

impl Report {
    /// How many were caught.
    pub fn caught(&self) -> usize {
        self.lines.iter().filter(|line| line.is_caught()).count()
    }

    /// Did the harness break on one of them?
    pub fn is_broken(&self) -> bool {
        let broken = |sighting: &Sighting| matches!(sighting, Sighting::Broken(_));
        self.lines.iter().any(|line| broken(&line.planted) || line.control.as_ref().is_some_and(broken))
    }

    /// One object on one line, of so many bugs that were asked for.
    pub fn json(&self, total: usize) -> String {
        json!({ "caught": self.caught(), "total": total }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(planted: Sighting, control: Option<Sighting>) -> Line {
        Line {
            sabotage: Sabotage::NoFsync,
            about: "power cut",
            planted,
            planted_s: 20.0,
            control,
            control_s: 0.0,
            control_of: None,
        }
    }

    fn caught() -> Sighting {
        Sighting::Caught { by: "S4 ×1".to_owned(), what: "lost".to_owned() }
    }

    #[test]
    fn what_is_found_without_the_bug_too_was_not_found_because_of_it() {
        assert!(line(caught(), Some(Sighting::Clean)).is_caught());
        assert!(!line(caught(), Some(caught())).is_caught());
        assert!(!line(caught(), Some(Sighting::Vacuous("no acks".to_owned()))).is_caught());
        assert!(!line(Sighting::Clean, None).is_caught());
    }

    #[test]
    fn the_last_line_counts_what_was_asked_for() {
        let lines = vec![line(caught(), Some(Sighting::Clean)), line(Sighting::Clean, None)];
        let report = Report { lines };
        assert_eq!(report.json(12), r#"{"caught":1,"total":12}"#);
        assert!(!report.is_broken());
    }
}
