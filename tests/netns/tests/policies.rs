//! Policies of every kind on real packets: what becomes of connections between all pods of two clusters and with
//! addresses outside, compared with what `policy table` and `policy eval` say of the same folder.

mod common;

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use common::{Site, set_names};
use landbridge_netns::{
    Demo,
    machine::{self, Machine},
    outside, possible,
    probe::{self, Fate, Probe, Protocol},
    verdicts::{self, Question, Verdict},
};

/// Ports of every pod over TCP; each has a name, not everywhere the same.
const PORTS: [u16; 3] = [8080, 8081, 8090];
/// The port of every pod over UDP, which is carried from addresses without identity only.
const DATAGRAMS: u16 = 5353;
/// The cluster beside the host outside.
const BESIDE: &str = "west";
/// A machine that is no pod, on the first node of its cluster.
const MACHINE: (&str, Ipv4Addr) = ("west/shop/vm", Ipv4Addr::new(10, 2, 1, 77));
/// How soon a live connection that is no longer allowed must be cut.
const CUT: Duration = Duration::from_secs(5);
/// How long an echo on a live connection may take.
const ECHO: Duration = Duration::from_millis(400);

#[test]
fn connections_meet_the_fate_that_the_policies_tell() -> Result<()> {
    if !possible("the test of policies on real packets")? {
        return Ok(());
    }
    let name_server = outside::NAME_SERVER.to_string();
    let demo = Demo::up_with(
        "tests/netns/policies/clusters",
        &["--name-server", &name_server],
    )?;
    let result = look(&demo);
    demo.down()?;
    result
}

fn look(demo: &Demo) -> Result<()> {
    let site = Site::new(demo, BESIDE)?;
    let cases = cases(&site)?;
    let begin = Instant::now();
    let (mut tried, mut wrong, mut lines) = (0, Vec::new(), Vec::new());
    for set in set_names()? {
        site.put_in_force(&set)?;
        let seen = compare(&site, &set, &cases)?;
        tried += cases.len();
        lines.push(format!(
            "{set}: {} allowed, {} denied, {} of them refused at once",
            seen.allowed,
            cases.len() - seen.allowed,
            seen.refused
        ));
        wrong.extend(seen.wrong);
    }
    lines.push(names(&site)?);
    for change in &RELABELLED {
        lines.push(relabelled(&site, change)?);
    }
    lines.push(machine(&site)?);
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{}", lines.join("\n"))?;
    writeln!(
        stderr,
        "{tried} connections tried in {:.0} s, {} are not as the policies say",
        begin.elapsed().as_secs_f32(),
        wrong.len()
    )?;
    ensure!(tried >= 60, "only {tried} connections were tried");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// What is asked about, and how it is tried.
type Case = (Question, Probe);

/// Every pair of pods at every port, and between the pods of one cluster and addresses outside.
fn cases(site: &Site) -> Result<Vec<Case>> {
    let mut cases = between_pods(site);
    for (name, cluster, pod) in site.plan.pods() {
        if cluster.name != BESIDE {
            continue;
        }
        let datagrams = (Protocol::Udp, DATAGRAMS);
        let target = SocketAddrV4::new(pod.address, DATAGRAMS);
        probe::serve(&pod.netns, Protocol::Udp, target)?;
        for address in outside::ADDRESSES {
            let own = (name.clone(), pod.netns.as_str(), pod.address);
            let other = (address.to_string(), site.outside.netns.as_str(), address);
            cases.extend(outside::SERVICES.map(|service| case(&own, &other, service)));
            let services = PORTS.map(|port| (Protocol::Tcp, port));
            let services = services.into_iter().chain([datagrams]);
            cases.extend(services.map(|service| case(&other, &own, service)));
        }
    }
    Ok(cases)
}

fn between_pods(site: &Site) -> Vec<Case> {
    let ends: Vec<End<'_>> = site
        .plan
        .pods()
        .map(|(name, _, pod)| (name, pod.netns.as_str(), pod.address))
        .collect();
    let mut cases = Vec::new();
    for from in &ends {
        for to in ends.iter().filter(|to| to.0 != from.0) {
            cases.extend(PORTS.map(|port| case(from, to, (Protocol::Tcp, port))));
        }
    }
    cases
}

/// Name, network namespace and address.
type End<'a> = (String, &'a str, Ipv4Addr);

fn case(from: &End<'_>, to: &End<'_>, (protocol, port): (Protocol, u16)) -> Case {
    let question = Question {
        from: from.0.clone(),
        to: to.0.clone(),
        protocol: protocol.word(),
        port,
    };
    let probe = Probe {
        netns: from.1.to_owned(),
        source: from.2,
        target: SocketAddrV4::new(to.2, port),
        protocol,
    };
    (question, probe)
}

/// What one set of policies showed.
struct Seen {
    allowed: usize,
    refused: usize,
    wrong: Vec<String>,
}

fn compare(site: &Site, set: &str, cases: &[Case]) -> Result<Seen> {
    let verdicts = site.verdicts(cases, &PORTS)?;
    let (fates, wrong) = fates(cases, &verdicts)?;
    let wrong = wrong
        .into_iter()
        .map(|(question, told)| format!("{set}: {told}{}", site.explained(question)));
    let wrong = wrong.collect();
    let allowed = verdicts.iter().filter(|v| v.allowed).count();
    ensure!(
        allowed > 0 && allowed < cases.len(),
        "{set} tells nothing: {allowed} of {} are allowed",
        cases.len()
    );
    Ok(Seen {
        allowed,
        refused: fates.iter().filter(|fate| **fate == Fate::Refused).count(),
        wrong,
    })
}

/// What is not as the policies say, in words.
type Wrong<'c> = (&'c Question, String);

/// Tries all cases; what became of them, and what is not as the policies say.
fn fates<'c>(cases: &'c [Case], verdicts: &[Verdict]) -> Result<(Vec<Fate>, Vec<Wrong<'c>>)> {
    let probes = cases.iter().zip(verdicts);
    let probes: Vec<_> = probes
        .map(|((_, probe), verdict)| (probe.clone(), verdict.allowed))
        .collect();
    let fates = probe::all(&probes)?;
    let mut wrong = Vec::new();
    for (((question, _), verdict), fate) in cases.iter().zip(verdicts).zip(&fates) {
        if let Some(expected) = complaint(question, verdict, *fate) {
            let told = format!(
                "{} -> {} {}/{}: {fate}, but should be {expected}: {}",
                question.from, question.to, question.port, question.protocol, verdict.because,
            );
            wrong.push((question, told));
        }
    }
    Ok((fates, wrong))
}

/// The same, where nothing may be otherwise.
fn all_as_told(cases: &[Case], verdicts: &[Verdict]) -> Result<()> {
    let (_, wrong) = fates(cases, verdicts)?;
    let wrong: Vec<String> = wrong.into_iter().map(|(_, told)| told).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn questions(cases: &[Case]) -> Vec<Question> {
    cases.iter().map(|(question, _)| question.clone()).collect()
}

/// What it should have been.
fn complaint(question: &Question, verdict: &Verdict, fate: Fate) -> Option<&'static str> {
    let cluster = |end: &str| end.split_once('/').map(|(cluster, _)| cluster.to_owned());
    let (from, to) = (cluster(&question.from), cluster(&question.to));
    // Towards another cluster the own gateway may know of it first, and is silent.
    let inside = from.is_none() || to.is_none() || from == to;
    match (verdict.allowed, fate) {
        (true, Fate::Echoed) => None,
        (true, _) => Some("connected"),
        (false, Fate::Silence) => (verdict.rejected && inside).then_some("refused at once"),
        (false, Fate::Refused) => (!verdict.rejected).then_some("dropped without a word"),
        (false, Fate::Echoed | Fate::Mute) => Some("denied"),
    }
}

/// An address counts for a name as soon as the name server said so, and for the pod that asked alone.
fn names(site: &Site) -> Result<String> {
    const NAME: &str = "pay.partner.example";
    site.put_in_force("names")?;
    let before = outwards(site, &outside::NAMED.to_string())?;
    for (name, _, pod) in site.plan.pods() {
        if name == "west/shop/api" || name == "west/shop/report" {
            outside::resolve(&pod.netns, pod.address, NAME)?;
        }
    }
    let after = outwards(site, NAME)?;
    let opened = before.iter().zip(&after).filter(|(b, a)| b != a).count();
    ensure!(opened == 1, "a name opened {opened} pods to an address");
    Ok(format!(
        "names: {opened} pod of {} was let out",
        after.len()
    ))
}

/// Tries the address that every name stands for from all pods beside it; what the policies say of `to`, which may
/// be a name of it, must be so.
fn outwards(site: &Site, to: &str) -> Result<Vec<bool>> {
    let other = (to.to_owned(), "", outside::NAMED);
    let beside = site.plan.pods().filter(|(_, c, _)| c.name == BESIDE);
    let cases: Vec<Case> = beside
        .map(|(name, _, pod)| (name, pod.netns.as_str(), pod.address))
        .map(|own| case(&own, &other, (Protocol::Tcp, 443)))
        .collect();
    let verdicts = verdicts::eval(site.demo, &questions(&cases))?;
    all_as_told(&cases, &verdicts)?;
    Ok(verdicts.iter().map(|verdict| verdict.allowed).collect())
}

/// A change of labels while connections live.
struct Relabelled {
    what: &'static str,
    set: &'static str,
    file: &'static str,
    before: &'static str,
    after: &'static str,
}

const RELABELLED: [Relabelled; 3] = [
    Relabelled {
        what: "a pod in quarantine",
        set: "zones",
        file: "east/pods.yaml",
        before: "{app: frontend, tier: web}\nspec:\n  nodeName: node1\n  serviceAccountName",
        after: "{app: frontend, tier: web, quarantine: now}\nspec:\n  nodeName: node1\n  serviceAccountName",
    },
    Relabelled {
        what: "a namespace of another team",
        set: "federation-order",
        file: "west/pods.yaml",
        before: "metadata: {name: ops, labels: {team: ops}}",
        after: "metadata: {name: ops, labels: {team: other}}",
    },
    Relabelled {
        what: "a namespace of another team in the other cluster",
        set: "federation-order",
        file: "east/pods.yaml",
        before: "metadata: {name: ops, labels: {team: ops}}",
        after: "metadata: {name: ops, labels: {team: other}}",
    },
];

/// A pod or a namespace gets other labels while connections live: those that the policies deny then are cut, and all
/// others go on.
fn relabelled(site: &Site, change: &Relabelled) -> Result<String> {
    let Relabelled {
        what,
        set,
        file,
        before: label,
        after: other,
    } = change;
    site.put_in_force(set)?;
    let cases = between_pods(site);
    let before = site.verdicts(&cases, &PORTS)?;
    let mut live = Vec::new();
    for ((question, probe), verdict) in cases.into_iter().zip(before) {
        if verdict.allowed {
            live.push((question, probe.hold()?));
        }
    }
    let path = site.demo.config().join(file);
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(label), "{} changed its form", path.display());
    common::replace(&path, &text.replacen(label, other, 1))?;
    let saved = Instant::now();
    let questions: Vec<Question> = live.iter().map(|(question, _)| question.clone()).collect();
    let after = verdicts::eval(site.demo, &questions)?;
    let (mut cut, mut kept) = (0, 0);
    for ((question, stream), verdict) in live.iter_mut().zip(&after) {
        if verdict.allowed {
            continue;
        }
        while probe::echo(stream, ECHO).is_ok() {
            if saved.elapsed() > CUT {
                bail!("{question:?} goes on, {what}: {}", verdict.because);
            }
        }
        cut += 1;
    }
    for ((question, stream), verdict) in live.iter_mut().zip(&after) {
        if verdict.allowed {
            probe::echo(stream, CUT).map_err(|e| anyhow::anyhow!("{question:?} was cut: {e}"))?;
            kept += 1;
        }
    }
    ensure!(cut > 0 && kept > 0, "{what}: {cut} cut, {kept} kept");
    common::replace(&path, &text)?;
    Ok(format!("{what}: {cut} live connections cut, {kept} kept"))
}

/// A machine behind an interface of a node is judged as a pod is from when a Workload names it, and cut off before and
/// after; a Workload that names another interface gives it nothing.
fn machine(site: &Site) -> Result<String> {
    site.put_in_force("network-policy")?;
    let (name, address) = MACHINE;
    let cluster = site.plan.clusters.iter().find(|c| c.name == BESIDE);
    let node = cluster.and_then(|cluster| cluster.nodes.first());
    let node = node.ok_or_else(|| anyhow::anyhow!("{BESIDE} has no node"))?;
    let machine = Machine::new(site.demo.prefix(), node, address, &PORTS)?;
    let own = (name.to_owned(), machine.netns.as_str(), address);
    let mut cases = Vec::new();
    for (name, _, pod) in site.plan.pods() {
        let other = (name, pod.netns.as_str(), pod.address);
        cases.extend(PORTS.map(|port| case(&own, &other, (Protocol::Tcp, port))));
        cases.extend(PORTS.map(|port| case(&other, &own, (Protocol::Tcp, port))));
    }
    let path = site.demo.config().join(BESIDE).join("machine.yaml");
    let save = |interface: &str| common::replace(&path, &workload(interface));

    save(machine::INTERFACE)?;
    let verdicts = verdicts::eval(site.demo, &questions(&cases))?;
    let allowed = verdicts.iter().filter(|verdict| verdict.allowed).count();
    ensure!(allowed > 0 && allowed < cases.len(), "{allowed} allowed");
    let first = cases.iter().zip(&verdicts).find(|(_, v)| v.allowed);
    let ((_, first), _) = first.ok_or_else(|| anyhow::anyhow!("nothing is allowed"))?;
    let saved = Instant::now();
    let mut live = loop {
        match first.hold() {
            Ok(stream) => break stream,
            Err(e) if saved.elapsed() > CUT => bail!("the machine has no identity: {e:#}"),
            Err(_) => {}
        }
    };
    all_as_told(&cases, &verdicts)?;

    let denied = cases.iter().map(|(_, probe)| (probe.clone(), false));
    let denied: Vec<(Probe, bool)> = denied.collect();
    let mut without = |what: &str| -> Result<()> {
        let changed = Instant::now();
        while probe::echo(&mut live, ECHO).is_ok() {
            ensure!(changed.elapsed() < CUT, "a connection goes on {what}");
        }
        let fates = probe::all(&denied)?;
        for ((probe, _), fate) in denied.iter().zip(fates) {
            // A pod of an unprotected namespace asks nobody.
            let judged = !matches!(fate, Fate::Echoed | Fate::Mute);
            ensure!(judged, "{probe:?} {what}: {fate}");
        }
        Ok(())
    };
    save("vm1")?;
    without("with a Workload of another interface")?;
    fs::remove_file(&path)?;
    without("without a Workload")?;
    Ok(format!(
        "machine: {allowed} of {} connections allowed as a Workload, none without",
        cases.len()
    ))
}

fn workload(interface: &str) -> String {
    let address = MACHINE.1;
    format!(
        "apiVersion: landbridge.io/v1alpha1\nkind: Workload\nmetadata: {{name: vm, namespace: shop, labels: {{app: db, env: machine}}}}\n\
         spec:\n  node: node1\n  address: {address}\n  interface: {interface}\n  ports:\n  \
         - {{name: http, port: 8080}}\n  - {{name: extra, port: 8090}}\n"
    )
}
