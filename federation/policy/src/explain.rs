//! The decision with its reasons: every rule that was asked, and which requirement failed.

use std::fmt;

use identity::TrustDomain;
use serde::{Deserialize, Serialize};

use crate::{
    Decision, DropReason, Peer, Query, RuleName, RuleRef, Table, Verdict,
    decide::{Asked, Settled, Trace},
    model::{Action, Direction, Policy, Rule, Scope, Tier},
    order::Turn,
    selector::{self, Context, Fit, Mismatch},
    words::protocol_name,
};

/// What `decide` answers and why. `Display` is for people, serde for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The cluster whose table was asked.
    pub cluster: TrustDomain,
    /// Seen from `subject`.
    pub direction: Direction,
    /// Where the peer stands.
    pub scope: Scope,
    /// `cluster/namespace/pod` of the pod whose policies were asked.
    pub subject: String,
    /// `cluster/namespace/pod` of the other end, its address, or `node`.
    pub peer: String,
    /// The IP protocol number.
    pub protocol: u8,
    /// The destination port as the destination pod gets it.
    pub port: u16,
    /// Everything that was asked, in that order, up to what decided.
    pub steps: Vec<Step>,
    /// The same verdict that [`Table::decide`] gives.
    pub verdict: Verdict,
    /// The verdict in a sentence.
    pub because: String,
    /// The same question with staged policies, where they change the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Box<Explanation>>,
}

/// One rule, or one policy asked whether it isolates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The tier it belongs to.
    pub tier: Tier,
    /// Its order in the tier.
    pub order: u32,
    /// Its name; the rule is `isolation` when the policy was asked whether it isolates.
    pub rule: RuleRef,
    /// What the rule does; `None` for isolation.
    pub action: Option<Action>,
    /// Whether it had its effect.
    pub outcome: Outcome,
    /// Which requirements failed, what was found and what was wanted; or what holds.
    pub why: Vec<String>,
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It had its effect.
    Matched,
    /// The policy does not select the subject.
    NotSelected,
    /// A requirement failed.
    NotMatched,
    /// It depends on a label that is not carried; a Deny then matches, an Allow does not.
    Unknown,
}

impl Explanation {
    /// The same question, refused before policy was asked: for `reason`, which is `because` in words.
    #[must_use]
    pub fn refused_before(self, reason: DropReason, because: String) -> Self {
        let decision = Decision::Drop {
            reason,
            reject: false,
        };
        Self {
            verdict: Verdict {
                decision,
                rule: None,
                logs: Vec::new(),
                staged: None,
            },
            because: format!("denied ({reason}): {because}"),
            steps: Vec::new(),
            staged: None,
            ..self
        }
    }
}

impl Table {
    /// Decides as [`Table::decide`] does, by the same walk, and tells what was asked on the way.
    #[must_use]
    pub fn explain(&self, query: &Query<'_>) -> Explanation {
        let lane = (query.direction, query.scope(self.cluster()));
        let (rules, isolating) = (self.rules_of(lane), self.isolating(lane));
        let enforced = self.enforced(rules.clone());
        let isolates = || self.enforced(isolating.clone());
        let mut explanation = self.explain_by(query, &enforced, &isolates);
        if self.has_staged() {
            let staged = self.explain_by(query, &rules, &|| isolating.clone());
            explanation.verdict.stage(staged.verdict.clone());
            if explanation.verdict.staged.is_some() {
                explanation.staged = Some(Box::new(staged));
            }
        }
        explanation
    }

    fn explain_by(
        &self,
        query: &Query<'_>,
        rules: &[Turn],
        isolators: &dyn Fn() -> Vec<Turn>,
    ) -> Explanation {
        let scope = query.scope(self.cluster());
        let mut account = Account {
            query,
            context: Context {
                own: self.cluster(),
                known: query.known,
            },
            steps: Vec::new(),
            settled: None,
        };
        let verdict = self.walk(query, rules, isolators, &mut account);
        let Account { steps, settled, .. } = account;
        Explanation {
            cluster: self.cluster().clone(),
            direction: query.direction,
            scope,
            subject: query.subject.display_name(),
            peer: peer_name(query.peer),
            protocol: query.protocol,
            port: query.port,
            because: because(&verdict, settled, &steps),
            steps,
            verdict,
            staged: None,
        }
    }
}

/// Writes down what the walk looks at.
struct Account<'q> {
    query: &'q Query<'q>,
    context: Context<'q>,
    steps: Vec<Step>,
    settled: Option<Settled>,
}

impl Trace for Account<'_> {
    const EXHAUSTIVE: bool = true;

    fn rule(&mut self, name: &RuleRef, policy: &Policy, rule: &Rule, asked: Asked<'_>) {
        let outcome = match asked {
            Asked {
                effective: true, ..
            } => Outcome::Matched,
            Asked {
                subject: Fit::No(_),
                ..
            } => Outcome::NotSelected,
            Asked {
                fit: Fit::No(_), ..
            } => Outcome::NotMatched,
            Asked { .. } => Outcome::Unknown,
        };
        let why = match asked.subject {
            Fit::No(mismatch) => vec![format!("does not select {}: {mismatch}", self.subject())],
            Fit::Yes | Fit::Unknown(_) => self.requirements(rule, asked),
        };
        self.steps.push(Step {
            tier: policy.tier,
            order: policy.order,
            rule: name.clone(),
            action: Some(rule.action),
            outcome,
            why,
        });
    }

    fn isolation(&mut self, policy: &Policy, fit: Fit<'_>) {
        let (outcome, why) = match fit {
            Fit::Yes => (Outcome::Matched, format!("selects {}", self.subject())),
            Fit::Unknown(mismatch) => (
                Outcome::Matched,
                format!("may select {}: {mismatch}", self.subject()),
            ),
            Fit::No(mismatch) => (
                Outcome::NotSelected,
                format!("does not select {}: {mismatch}", self.subject()),
            ),
        };
        self.steps.push(Step {
            tier: policy.tier,
            order: policy.order,
            rule: RuleRef::from(RuleName {
                cluster: self.context.own.clone(),
                tier: policy.tier,
                kind: policy.kind,
                namespace: policy.namespace.clone(),
                policy: policy.name.clone(),
                rule: "isolation".into(),
            }),
            action: None,
            outcome,
            why: vec![why],
        });
    }

    fn settled(&mut self, by: Settled) {
        self.settled = Some(by);
    }
}

impl Account<'_> {
    fn subject(&self) -> String {
        self.query.subject.display_name()
    }

    /// Every requirement of a rule that fails or is unknown, or that all hold.
    fn requirements(&self, rule: &Rule, asked: Asked<'_>) -> Vec<String> {
        let mut out = Vec::new();
        if let Fit::Unknown(mismatch) = asked.subject {
            out.push(format!("may select {}: {mismatch}", self.subject()));
        }
        if let Fit::No(mismatch) | Fit::Unknown(mismatch) = selector::ports(rule, self.query) {
            out.push(mismatch.to_string());
        }
        match selector::peers(&rule.peers, self.query.peer, self.context) {
            Fit::Yes => {}
            Fit::No(mismatch) | Fit::Unknown(mismatch) if rule.peers.len() == 1 => {
                out.push(mismatch.to_string());
            }
            Fit::No(_) | Fit::Unknown(_) => {
                for (wanted, place) in rule.peers.iter().zip(0..) {
                    let fit = selector::peer(wanted, self.query.peer, self.context);
                    if let Fit::No(mismatch) | Fit::Unknown(mismatch) = fit {
                        out.push(format!("peer {place}: {mismatch}"));
                    }
                }
            }
        }
        if let Fit::No(mismatch @ Mismatch::Assurance { .. }) = asked.fit {
            out.push(mismatch.to_string());
        }
        if out.is_empty() {
            out.push("every requirement holds".into());
        }
        out
    }
}

/// The verdict in a sentence.
fn because(verdict: &Verdict, settled: Option<Settled>, steps: &[Step]) -> String {
    let what = match verdict.decision {
        Decision::Allow => "allowed".to_owned(),
        Decision::Drop {
            reason,
            reject: false,
        } => format!("dropped ({reason})"),
        Decision::Drop {
            reason,
            reject: true,
        } => format!("rejected ({reason})"),
    };
    let by = match (&verdict.rule, settled) {
        (Some(rule), _) => format!("by {rule}"),
        (None, Some(Settled::Node)) => "because a pod and its own node always may".into(),
        (None, Some(Settled::ForeignSubject)) => {
            "because the pod does not belong to the cluster whose policy was asked".into()
        }
        (None, Some(Settled::Isolated(tier))) => {
            let isolates =
                |s: &&Step| s.action.is_none() && s.tier == tier && s.outcome == Outcome::Matched;
            let names: Vec<_> = steps
                .iter()
                .filter(isolates)
                .map(|s| s.rule.policy_words().to_string())
                .collect();
            format!(
                "because no rule allows it and {} isolates the pod",
                names.join(", ")
            )
        }
        (None, Some(Settled::Default(Scope::Local)) | None) => {
            "by default inside a cluster, because no policy isolates the pod".into()
        }
        (None, Some(Settled::Default(Scope::Remote))) => {
            "by default across clusters, because no rule allows it".into()
        }
    };
    format!("{what} {by}")
}

fn peer_name(peer: Peer<'_>) -> String {
    match peer {
        Peer::Identity { claims, .. } => claims.display_name(),
        Peer::Address(address) => address.to_string(),
        Peer::Named { address, names } => {
            let names = names.join(", ");
            match address {
                Some(address) => format!("{address} ({names})"),
                None => names,
            }
        }
        Peer::Node => "node".into(),
    }
}

/// Lines for policies that do not select the pod: more than this many are only counted.
const UNSELECTED_LINES: usize = 20;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = match self.direction {
            Direction::Ingress => (&self.peer, &self.subject),
            Direction::Egress => (&self.subject, &self.peer),
        };
        writeln!(
            f,
            "{from} -> {to} {}, {} of {}, {} scope: {}",
            protocol_name(self.protocol, self.port),
            match self.direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            },
            self.subject,
            match self.scope {
                Scope::Local => "local",
                Scope::Remote => "remote",
            },
            self.because
        )?;
        let mut unselected = 0_usize;
        for step in &self.steps {
            if step.outcome == Outcome::NotSelected {
                unselected += 1;
                if unselected > UNSELECTED_LINES {
                    continue;
                }
            }
            writeln!(f, "  {step}")?;
        }
        let hidden = unselected.saturating_sub(UNSELECTED_LINES);
        if hidden > 0 {
            writeln!(
                f,
                "  and {hidden} more of policies that do not select the pod"
            )?;
        }
        if let Some(staged) = &self.staged {
            write!(f, "with staged policies: {staged}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    /// `application 1000 west: NetworkPolicy shop/api rule ingress[0] (allow): matched: ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tier = match self.tier {
            Tier::Admin => "admin",
            Tier::Application => "application",
            Tier::Baseline => "baseline",
        };
        let action = match self.action {
            Some(Action::Allow) => " (allow)",
            Some(Action::Deny) => " (deny)",
            Some(Action::Pass) => " (pass)",
            Some(Action::Log) => " (log)",
            None => "",
        };
        let outcome = match self.outcome {
            Outcome::Matched => "matched",
            Outcome::NotSelected | Outcome::NotMatched => "no match",
            Outcome::Unknown => "unknown, so no match",
        };
        write!(f, "{tier} {} {}: ", self.order, self.rule.cluster)?;
        match self.action {
            Some(_) => write!(
                f,
                "{} rule {}{action}",
                self.rule.policy_words(),
                self.rule.rule
            )?,
            None => write!(f, "{} isolation", self.rule.policy_words())?,
        }
        write!(f, ": {outcome}: {}", self.why.join("; "))
    }
}
