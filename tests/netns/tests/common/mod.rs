//! Two clusters and a host outside, under one set of policies after the other.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use landbridge_netns::{
    Demo,
    outside::Outside,
    plan::Plan,
    probe::Probe,
    verdicts::{self, Question, Verdict},
};

/// A port that nothing else speaks of, for the rule that tells which set is in force.
const MARKED: &str = "65535/tcp";
/// How soon all that is saved must be in force.
const IN_FORCE: Duration = Duration::from_secs(10);
/// A pod on each node as destination, and one of another cluster that calls it.
const NODES: [(&str, &str); 4] = [
    ("east/shop/batch", "west/shop/api"),
    ("east/shop/batch", "west/shop/db"),
    ("west/shop/api", "east/shop/frontend"),
    ("west/shop/api", "east/shop/batch"),
];

/// What the test runs in.
pub struct Site<'a> {
    pub demo: &'a Demo,
    pub plan: Plan,
    pub outside: Outside,
}

/// The sets of policies: a folder each, with a file per cluster.
pub fn set_names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sets())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

impl<'a> Site<'a> {
    pub fn new(demo: &'a Demo, beside: &str) -> Result<Self> {
        let plan = demo.plan()?;
        let cluster = plan.clusters.iter().find(|c| c.name == beside);
        let outside = Outside::new(demo.prefix(), cluster.context("no such cluster")?)?;
        Ok(Self {
            demo,
            plan,
            outside,
        })
    }

    /// Saves a set, and waits until every agent decides by it and every gateway has heard of it.
    pub fn put_in_force(&self, set: &str) -> Result<()> {
        for cluster in &self.plan.clusters {
            let own = sets().join(set).join(&cluster.name).with_extension("yaml");
            let own = match own.exists() {
                true => fs::read_to_string(&own)?,
                false => String::new(),
            };
            // In the same file: what is in force of it is in force as a whole.
            let text = format!("{}---\n{own}", marker(set));
            let path = self.demo.config().join(&cluster.name).join("policies.yaml");
            replace(&path, &text)?;
        }
        let saved = Instant::now();
        for (from, to) in NODES {
            while !self.is_in_force(set, from, to)? {
                if saved.elapsed() > IN_FORCE {
                    bail!("{set} is not in force at {to}, and towards it from {from}");
                }
            }
        }
        // Each agent's packet thread answers this after it took what came before.
        self.demo.said(&["status"]).map(drop)
    }

    fn is_in_force(&self, set: &str, from: &str, to: &str) -> Result<bool> {
        let ask = [
            "explain", "-o", "json", "--from", from, "--to", to, "--port", MARKED,
        ];
        let said: serde_json::Value = serde_json::from_str(&self.demo.said(&ask)?)?;
        let rule = format!("rule {}", marker_name(set));
        let names_it = |end: &str| {
            let because = said[end]["because"].as_str();
            because.is_some_and(|because| because.contains(&rule))
        };
        Ok(names_it("ingress") && names_it("announced"))
    }

    /// What the policies in force say of all cases: `policy eval`, and for pods `policy table` as well, of the
    /// folder and of what the agents enforce.
    pub fn verdicts(&self, cases: &[(Question, Probe)], ports: &[u16]) -> Result<Vec<Verdict>> {
        let questions: Vec<Question> = cases.iter().map(|(question, _)| question.clone()).collect();
        let verdicts = verdicts::eval(self.demo, &questions)?;
        let table = verdicts::table(self.demo, ports)?;
        let live = verdicts::live_table(self.demo, ports)?;
        ensure!(table == live, "the agents enforce another table");
        let mut found = 0;
        for (question, verdict) in questions.iter().zip(&verdicts) {
            if let Some(allowed) = table.get(question) {
                found += 1;
                ensure!(
                    *allowed == verdict.allowed,
                    "{question:?}: policy table says {allowed}, policy eval {verdict:?}"
                );
            }
        }
        ensure!(found == table.len(), "policy table has more pairs");
        Ok(verdicts)
    }

    /// What the running agents say of two pods.
    pub fn explained(&self, question: &Question) -> String {
        let port = format!("{}/{}", question.port, question.protocol);
        let (from, to) = (&question.from, &question.to);
        if !(from.contains('/') && to.contains('/')) {
            return String::new();
        }
        let said = self
            .demo
            .said(&["explain", "--from", from, "--to", to, "--port", &port]);
        match said {
            Ok(text) => format!("\n  {}", text.trim_end().replace('\n', "\n  ")),
            Err(e) => format!("\n  {e:#}"),
        }
    }
}

/// Readers see the old file or the new one, never a part.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let saving = path.with_extension("saving");
    fs::write(&saving, text)?;
    fs::rename(&saving, path).with_context(|| path.display().to_string())
}

fn marker_name(set: &str) -> String {
    format!("set-{set}")
}

fn marker(set: &str) -> String {
    format!(
        "apiVersion: landbridge.io/v1alpha1\nkind: ClusterFederationPolicy\nmetadata: {{name: marker}}\nspec:\n  \
         tier: Admin\n  order: 0\n  ingress:\n  - name: {}\n    action: Deny\n    \
         from: [{{scope: All, namespaceSelector: {{}}}}]\n    ports: [{{port: 65535}}]\n",
        marker_name(set)
    )
}

fn sets() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("policies/sets")
}
