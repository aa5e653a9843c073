//! `demo check`: looks at every fact and says what it saw, as TAP 14.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};

use super::{
    StateArg,
    facts::{self, Capture, Demo, Fact},
    interrupt::Interrupts,
    journal::{self, Entry, Journal},
    preflight,
    state::State,
    tap::{self, Verdict},
};
use crate::{
    oracle::{Oracle, refused},
    say::say,
};

/// Arguments of `demo check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    state: StateArg,
    /// Look at these facts alone
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        conflicts_with = "full"
    )]
    only: Vec<String>,
    /// Afterwards end the demo, look for what stayed behind, start it again and check once more
    #[arg(long)]
    full: bool,
    /// Print the names of all facts
    #[arg(long)]
    list: bool,
    /// How often the fact `restarts` kills a gateway
    #[arg(long, value_name = "N", default_value_t = 3)]
    restarts: u32,
    /// Check a demo without enforcement too, to see the facts fail
    #[arg(long, hide = true)]
    anyway: bool,
}

/// Runs `demo check`.
///
/// # Errors
/// When a fact does not hold.
pub fn run(args: &CheckArgs) -> Result<()> {
    if args.list {
        for fact in facts::ALL {
            say!("{:<18} {}", fact.name, fact.title);
        }
        return Ok(());
    }
    let chosen = choose(&args.only)?;
    let interrupts = Interrupts::handle()?;
    let state = State::new(&args.state.state)?;
    preflight::root()?;
    state.running_plan()?;
    let _lock = state.lock()?;
    if !args.anyway {
        refuse_without_enforcement(&state)?;
    }
    let total = if args.full {
        2 * chosen.len() + 2
    } else {
        chosen.len()
    };
    say!("{}", tap::header(total));
    let mut report = Report::default();
    let wanted = Wanted {
        facts: chosen,
        restarts: args.restarts,
    };
    look_at(&wanted, "", &state, &interrupts, &mut report)?;
    if args.full {
        super::again::check(&wanted, &state, &interrupts, &mut report)?;
    }
    let seconds = report.begin.elapsed().as_secs_f32();
    say!(
        "# {} of {} facts hold, {} skipped, {seconds:.1} s",
        report.number - report.failed.len(),
        report.number,
        report.skipped
    );
    if !report.failed.is_empty() {
        bail!(
            "{} of {} facts do not hold: {}",
            report.failed.len(),
            report.number,
            report.failed.join("; ")
        );
    }
    Ok(())
}

/// What is to be looked at.
pub struct Wanted {
    /// These facts.
    pub facts: Vec<&'static Fact>,
    /// How often a gateway is killed by the one that does so over and over.
    pub restarts: u32,
}

/// What was printed so far.
pub struct Report {
    begin: Instant,
    number: usize,
    /// Their titles, and why.
    failed: Vec<String>,
    skipped: usize,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            number: 0,
            failed: Vec::new(),
            skipped: 0,
        }
    }
}

impl Report {
    /// Looks, and prints what came of it.
    pub fn line(&mut self, title: &str, look: impl FnOnce() -> Result<Verdict>) {
        let begin = Instant::now();
        let verdict = look().unwrap_or_else(|e| Verdict::Fails(format!("{e:#}")));
        self.number += 1;
        match &verdict {
            Verdict::Holds(_) => {}
            Verdict::Skipped(_) => self.skipped += 1,
            Verdict::Fails(why) => self.failed.push(format!("{title} ({why})")),
        }
        say!(
            "{}",
            tap::line(self.number, title, &verdict, begin.elapsed())
        );
    }
}

/// Looks at what is wanted in the demo that is up in `state`.
pub fn look_at(
    wanted: &Wanted,
    before_title: &str,
    state: &State,
    interrupts: &Interrupts,
    report: &mut Report,
) -> Result<()> {
    let plan = state.running_plan()?;
    let journal = Journal::open(&state.journal())?;
    let (oracle, problems) = Oracle::in_force(&state.config())?;
    for problem in refused(&problems) {
        say!("# {problem}");
    }
    let capture = Capture::start(&plan, state, &journal)?;
    let mut demo = Demo {
        oracle,
        own: own_program()?,
        state: state.clone(),
        attempts: None,
        interrupts: interrupts.clone(),
        restarts: wanted.restarts,
        capture,
        journal,
        plan,
    };
    for fact in &wanted.facts {
        interrupts.check()?;
        let title = format!("{before_title}{}", fact.title);
        report.line(&title, || (fact.look)(&mut demo));
    }
    demo.capture.stop()
}

/// This program's path, which the programs of the demo were found beside.
pub fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("this program has no path")
}

fn choose(only: &[String]) -> Result<Vec<&'static Fact>> {
    for name in only {
        if facts::ALL.iter().all(|fact| fact.name != name) {
            let names: Vec<_> = facts::ALL.iter().map(|fact| fact.name).collect();
            bail!("there is no fact {name:?}; there are {}", names.join(", "));
        }
    }
    Ok(facts::ALL
        .iter()
        .filter(|fact| only.is_empty() || only.iter().any(|name| name == fact.name))
        .collect())
}

/// Facts about nothing would hold in part and mean nothing.
fn refuse_without_enforcement(state: &State) -> Result<()> {
    let entries = journal::read(&state.journal())?.unwrap_or_default();
    if !entries.contains(&Entry::Ready { enforcement: true }) {
        bail!("this demo was started without enforcement: there is nothing to check");
    }
    Ok(())
}
