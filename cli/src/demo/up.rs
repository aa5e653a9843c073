//! `demo up`: looks first, then builds and starts everything, and undoes all of it when any part
//! fails or Ctrl-C comes.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Result, bail};

use super::{
    StateArg, by_token, config, daemons,
    down::{self, Keep},
    interrupt::Interrupts,
    journal::{self, Entry, Journal},
    net,
    plan::Plan,
    pods,
    preflight::{self, Binaries},
    state::{self, State},
};
use crate::{
    oracle::refused,
    say::{complain, say},
};

/// Arguments of `demo up`.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Folder with federation.yaml and one folder of manifests per cluster
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    #[command(flatten)]
    state: StateArg,
    /// What the names of the network namespaces start with
    #[arg(long, default_value = "lb", hide = true)]
    prefix: String,
    /// Start clusters that know nothing of each other, and have them join by tokens
    #[arg(long, conflicts_with = "no_enforcement")]
    by_token: bool,
    /// With --by-token: all join the first cluster alone, which introduces them to each other
    #[arg(long, requires = "by_token")]
    introduced: bool,
    /// Build network and servers only: the kernels route, and nothing is refused or encrypted
    #[arg(long, hide = true)]
    no_enforcement: bool,
    /// A name server whose answers count for policies that allow names; without any, those of this machine
    #[arg(long, hide = true, value_name = "ADDRESS")]
    name_server: Vec<Ipv4Addr>,
}

/// Runs `demo up`.
pub fn run(args: &UpArgs) -> Result<()> {
    let begin = Instant::now();
    let interrupts = Interrupts::handle()?;
    let folder = match &args.config {
        Some(folder) => folder.clone(),
        None => config::default_folder()?,
    };
    let (declared, problems) = config::declared(&folder)?;
    let mut plan = Plan::new(&args.prefix, &declared)?;
    plan.name_servers.clone_from(&args.name_server);
    plan.by_token = args.by_token;
    plan.introduced = args.introduced;
    let state = State::new(&args.state.state)?;
    state.check_socket_paths(&plan)?;
    let enforcement = !args.no_enforcement;
    let binaries = preflight::check(enforcement)?;
    let _lock = state.lock()?;
    clean_up_after_a_crash(&state)?;
    preflight::check_names(&plan)?;
    let site = Site {
        plan: &plan,
        state: &state,
        folder: &folder,
        interrupts: &interrupts,
        enforcement,
        say: |line| say!("{line}"),
    };
    let journal = state.claim()?;
    for problem in &problems {
        complain!("{problem}");
    }
    if refused(&problems).next().is_some() {
        complain!("what is refused is refused alone: all the rest comes up\n");
    }

    match site.bring_up(&binaries, &journal) {
        Ok(()) => {
            describe(&plan, &state, enforcement);
            say!("\nup after {:.1} s", begin.elapsed().as_secs_f32());
            Ok(())
        }
        Err(e) => {
            let interrupted = interrupts.came();
            let keep = if interrupted {
                Keep::Nothing
            } else {
                Keep::Logs
            };
            complain!("undoing what was made");
            if let Err(left) = down::down(&state, keep) {
                complain!("{left:#}");
            } else if !interrupted {
                complain!("the logs stay in {}/logs", state.dir().display());
            }
            Err(e)
        }
    }
}

/// What is brought up, and where.
pub struct Site<'a> {
    /// The network.
    pub plan: &'a Plan,
    /// Where everything goes.
    pub state: &'a State,
    /// The configuration to copy.
    pub folder: &'a Path,
    /// Asked between the steps.
    pub interrupts: &'a Interrupts,
    /// With gateways and agents.
    pub enforcement: bool,
    /// Says what is done.
    pub say: fn(&str),
}

/// A demo that is up stays; what a crashed one left is removed.
fn clean_up_after_a_crash(state: &State) -> Result<()> {
    let Some(entries) = journal::read(&state.journal())? else {
        return Ok(());
    };
    if journal::is_whole(&entries) {
        bail!(
            "a demo is up already in {}: look with `landbridge status`, end it with \
             `landbridge demo down`, or name another directory with --state",
            state.dir().display()
        );
    }
    say!(
        "removing what an earlier demo left in {}",
        state.dir().display()
    );
    down::down(state, Keep::Nothing)?;
    Ok(())
}

impl Site<'_> {
    /// Brings a demo up where one was before.
    pub fn bring_up_again(&self) -> Result<()> {
        let binaries = preflight::check(self.enforcement)?;
        self.bring_up(&binaries, &self.state.claim()?)
    }

    fn bring_up(&self, binaries: &Binaries, journal: &Journal) -> Result<()> {
        let Self {
            plan,
            state,
            interrupts,
            enforcement,
            ..
        } = *self;
        state.make_folders()?;
        state::copy_folder(self.folder, &state.config())?;
        state.write_plan(plan)?;

        (self.say)(&format!("building the network: {}", size(plan)));
        net::build(plan, journal, &|| interrupts.check())?;
        interrupts.check()?;
        (self.say)("starting the servers in the pods");
        pods::start_all(plan, state, &binaries.own, journal)?;
        interrupts.check()?;
        if enforcement {
            (self.say)("starting gateways and agents");
            let started = daemons::start(plan, state, binaries, journal, interrupts)?;
            daemons::wait_ready(&started, state, interrupts)?;
            if plan.by_token {
                (self.say)("joining them by tokens");
                for joined in by_token::join_all(plan, state, &binaries.own)? {
                    (self.say)(&joined);
                }
            }
        }
        interrupts.check()?;
        journal.record(&Entry::Ready { enforcement })
    }
}

fn size(plan: &Plan) -> String {
    let nodes: usize = plan.clusters.iter().map(|c| c.nodes.len()).sum();
    format!(
        "{} clusters, {nodes} nodes, {} pods",
        plan.clusters.len(),
        plan.pods().count()
    )
}

fn describe(plan: &Plan, state: &State, enforcement: bool) {
    let dir = state.dir().display();
    say!("");
    for cluster in &plan.clusters {
        say!(
            "cluster {} (trust domain {})",
            cluster.name,
            cluster.trust_domain
        );
        say!(
            "  {:<28} gateway {}",
            cluster.gateway.netns,
            cluster.gateway.wan
        );
        for node in &cluster.nodes {
            say!("  {:<28} node {}", node.netns, node.address);
            for pod in cluster.pods.iter().filter(|p| p.node == node.name) {
                let ports: Vec<_> = pod.ports.iter().map(u16::to_string).collect();
                let ports = if ports.is_empty() {
                    String::new()
                } else {
                    format!(" TCP {}", ports.join(","))
                };
                say!(
                    "    {:<26} pod {}/{} {}{ports}",
                    pod.netns,
                    pod.namespace,
                    pod.name,
                    pod.address
                );
            }
        }
    }
    if !enforcement {
        say!("\nWITHOUT ENFORCEMENT: nothing is refused, nothing is encrypted.");
    }
    say!("\nenter one with   nsenter --net=/run/netns/NAME");
    say!("edit and save    {dir}/config");
    say!("read             {dir}/logs");
    let option = if dir.to_string() == super::DEFAULT_STATE {
        String::new()
    } else {
        format!(" --state {dir}")
    };
    say!("then             landbridge demo check{option}");
    say!("                 landbridge status{option}");
    say!("                 landbridge demo down{option}");
}
