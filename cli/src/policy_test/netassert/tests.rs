//! Files as netassert's own documents write them.
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::super::{TestArgs, run_to};

const FEDERATION: &str = "\
apiVersion: landbridge.io/v1alpha1
kind: Federation
metadata: {name: test}
spec: {clusters: [{name: west, podRanges: [{id: 1, cidr: 10.1.0.0/16}]}]}
";

/// A front end, a service behind it and a database; the database takes the service only.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("west")).unwrap();
    fs::write(dir.path().join("federation.yaml"), FEDERATION).unwrap();
    let pod = |namespace: &str, name: &str, app: &str, ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}\n\
             spec: {{containers: [{{name: main}}]}}\nstatus: {{podIP: {ip}}}\n"
        )
    };
    let pods = [
        pod(
            "default",
            "test-frontend-7c4f8d9b5-aaaaa",
            "frontend",
            "10.1.1.10",
        ),
        pod(
            "default",
            "test-frontend-7c4f8d9b5-bbbbb",
            "frontend",
            "10.1.1.11",
        ),
        pod(
            "default",
            "test-microservice-5d5f6c7b8-ccccc",
            "microservice",
            "10.1.1.12",
        ),
        pod("data", "test-database-0", "database", "10.1.1.13"),
    ];
    fs::write(dir.path().join("west/pods.yaml"), pods.concat()).unwrap();
    let policy = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: database, namespace: data}
spec:
  podSelector: {matchLabels: {app: database}}
  ingress:
  - from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: microservice}}}]
    ports: [{port: 5432}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: default}
spec:
  podSelector: {matchLabels: {app: frontend}}
  egress: [{to: [{namespaceSelector: {}}]}, {to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]
  policyTypes: [Egress]
";
    fs::write(dir.path().join("west/policies.yaml"), policy).unwrap();
    dir
}

struct Run {
    holds: bool,
    told: String,
}

fn run_with(text: &str, change: impl FnOnce(&mut TestArgs)) -> Result<Run, String> {
    let dir = folder();
    let path: PathBuf = dir.path().join("netassert.yaml");
    fs::write(&path, text).unwrap();
    let mut args = TestArgs {
        files: vec![path],
        config: None,
        cluster: None,
        allow_skip: false,
    };
    change(&mut args);
    let mut told = Vec::new();
    let holds = run_to(&args, &mut told);
    let told = String::from_utf8(told).unwrap();
    match holds {
        Ok(holds) => Ok(Run { holds, told }),
        Err(error) => Err(format!("{error:#}").replace(&dir.path().display().to_string(), "DIR")),
    }
}

fn run(text: &str) -> Run {
    run_with(text, |_| {}).unwrap()
}

fn refused(text: &str) -> String {
    run_with(text, |_| {}).err().unwrap()
}

/// As the documents of version 1 have it, but for the namespace of the database.
#[test]
fn version_1_with_its_negatives() {
    let run = run("\
k8s:
  deployment:
    default:test-frontend:
      test-microservice: 80
      data:test-database: -80, -5432
      192.0.2.7: [443, UDP:53]
      198.51.100.7: -443
    test-microservice:
      test-database.data: [5432, '-80', -UDP:5432, TCP:-22]
      test-database.data.svc.cluster.local: HTTP:5432
");
    assert!(run.holds, "{}", run.told);
    let plan = "TAP version 14\n1..17\n";
    assert!(run.told.starts_with(plan), "{}", run.told);
    for line in [
        "ok 1 - default:test-frontend -> 192.0.2.7 443 (west/default/test-frontend-7c4f8d9b5-aaaaa -> 192.0.2.7 443/tcp: allowed)",
        "(west/default/test-frontend-7c4f8d9b5-bbbbb -> 198.51.100.7 443/tcp: denied)",
        "(west/default/test-frontend-7c4f8d9b5-bbbbb -> west/data/test-database-0 5432/tcp: denied)",
        "(west/default/test-microservice-5d5f6c7b8-ccccc -> west/data/test-database-0 5432/udp: denied)",
        "# 17 of 17 hold",
    ] {
        assert!(run.told.contains(line), "{line}\n{}", run.told);
    }
}

#[test]
fn version_1_does_not_hold_where_policy_says_else() {
    for (test, named) in [
        (
            "default:test-frontend: {data:test-database: 5432}",
            "denied-by-default",
        ),
        (
            "default:test-microservice: {data:test-database: -5432}",
            "it is allowed",
        ),
        ("default:test-frontend: {198.51.100.7: 443}", "egress: "),
        (
            "default:nobody: {test-microservice: 80}",
            "no pod of Deployment default/nobody",
        ),
        (
            "default:test-frontend: {nobody: -80}",
            "no pod of workload or Service default/nobody",
        ),
        (
            "default:test-frontend: {nobody.data.svc: -80}",
            "no pod of workload or Service data/nobody",
        ),
        (
            "default:test-frontend: {10.1.9.9: -80}",
            "10.1.9.9 is a pod's of cluster west",
        ),
    ] {
        let run = run(&format!("k8s: {{deployment: {{{test}}}}}\n"));
        assert!(!run.holds, "{test}");
        assert!(
            run.told.contains("not ok 1 - ") && run.told.contains(named),
            "{}",
            run.told
        );
    }
}

/// What only packets can tell is never green by itself.
#[test]
fn what_only_packets_tell_fails_unless_skips_are_allowed() {
    for (test, why) in [
        (
            "host: {localhost: {8.8.8.8: UDP:53}}",
            "localhost is a machine outside",
        ),
        (
            "instance: {bastion: {localhost: [22, -999]}}",
            "bastion is a machine outside",
        ),
        (
            "k8s: {deployment: {test-frontend: {google.co.uk: 443}}}",
            "google.co.uk is a name of the DNS",
        ),
        (
            "kubernetes: {deployment: {test-frontend: {google.com: 443}}}",
            "google.com is a name of the DNS",
        ),
        (
            "k8s: {deployment: {test-frontend: {test-microservice: 'ICMP:8'}}}",
            "ICMP",
        ),
        (
            "k8s: {deployment: {test-frontend: {127.0.0.1: -80}}}",
            "127.0.0.1",
        ),
    ] {
        let strict = run(test);
        assert!(!strict.holds, "{test}");
        assert!(
            strict.told.contains("not ok 1 - ") && strict.told.contains(why),
            "{}",
            strict.told
        );
        let lenient = run_with(test, |args| args.allow_skip = true).unwrap();
        assert!(
            lenient.holds && lenient.told.contains("ok 1 - "),
            "{}",
            lenient.told
        );
        assert!(lenient.told.contains("# SKIP ") && lenient.told.contains(" skipped\n"));
    }
}

fn v2(name: &str, rest: &str, dst: &str) -> String {
    format!(
        "- name: {name}\n  type: k8s\n  targetPort: 5432\n  {rest}\n  src:\n    k8sResource: {{kind: deployment, name: test-microservice, namespace: default}}\n  dst: {dst}\n"
    )
}

const DATABASE: &str = "{k8sResource: {kind: statefulset, name: test-database, namespace: data}}";

#[test]
fn version_2_with_its_negatives() {
    let tests = [
        v2(
            "open",
            "timeoutSeconds: 67\n  attempts: 3\n  exitCode: 0",
            DATABASE,
        ),
        v2("udp", "protocol: udp\n  exitCode: 1", DATABASE),
        v2("address", "protocol: tcp", "{host: {name: 192.0.2.1}}"),
        v2(
            "address of a pod",
            "exitCode: 0",
            "{host: {name: 10.1.1.13}}",
        ),
    ];
    let run = run(&tests.concat());
    assert!(run.holds, "{}", run.told);
    assert!(run.told.contains("ok 1 - open (west/default/test-microservice-5d5f6c7b8-ccccc -> west/data/test-database-0 5432/tcp: allowed)"));
    assert!(run.told.contains("ok 4 - address of a pod (west/default/test-microservice-5d5f6c7b8-ccccc -> west/data/test-database-0 "));
    for (tests, named) in [
        (v2("closed", "exitCode: 1", DATABASE), "it is allowed"),
        (v2("udp", "protocol: udp", DATABASE), "denied-by-default"),
        (
            v2(
                "pod",
                "exitCode: 0",
                "{k8sResource: {kind: pod, name: database, namespace: data}}",
            ),
            "no pod of Pod data/database",
        ),
        (
            v2("dns", "exitCode: 0", "{host: {name: control-plane.io}}"),
            "control-plane.io is a name of the DNS",
        ),
        (
            v2("nowhere", "exitCode: 1", "{host: {name: 0.0.0.0}}"),
            "0.0.0.0 is nobody",
        ),
    ] {
        let run = self::run(&tests);
        assert!(!run.holds && run.told.contains(named), "{}", run.told);
    }
}

#[test]
fn mistakes_have_their_line_field_and_what_is_allowed() {
    let src = "{k8sResource: {kind: deployment, name: a, namespace: b}}";
    let test =
        |more: &str| format!("- name: x\n  type: k8s\n  src: {src}\n  dst: {DATABASE}\n{more}");
    for (text, told) in [
        (
            "k8s:\n  deployment:\n    a:\n      b: 80, ninety\n".to_owned(),
            "DIR/netassert.yaml:4: k8s.deployment.a.b: \"ninety\" is no port; expected [-][TCP:, UDP: or HTTP:] and a number from 1 to 65535, such as 80, -443 or -UDP:53",
        ),
        (
            "k8s:\n  deployment:\n    a:\n      b:\n      - 80\n      - TCP:!80\n".to_owned(),
            "DIR/netassert.yaml:6: k8s.deployment.a.b[1]: \"TCP:!80\" is no port",
        ),
        (
            "k8s: {deployment: {a: {b: [0, 65536, -0]}}}\n".to_owned(),
            "\"0\" is no port",
        ),
        (
            "k8s: {deployment: {a: {b: []}}}\n".to_owned(),
            "k8s.deployment.a.b: there is no port",
        ),
        (
            "k8s: {deployment: {a: 80}}\n".to_owned(),
            "k8s.deployment.a: found 80; expected a mapping",
        ),
        (
            "k8s:\n  daemonset: {}\n".to_owned(),
            "DIR/netassert.yaml:2: k8s.daemonset: \"daemonset\" is no kind; expected deployment",
        ),
        (
            "k8s: {deployment: {}}\n".to_owned(),
            "there are no tests; expected at least one",
        ),
        (
            "k8s: {}\nk9s: {}\n".to_owned(),
            "k9s: \"k9s\" is no group; expected k8s or host",
        ),
        (
            "k8s: {}\nk8s: {}\n".to_owned(),
            "DIR/netassert.yaml:2: k8s: the key appears twice",
        ),
        ("[]\n".to_owned(), "there are no tests"),
        (
            test("  targetPort: 80\n  exitCode: 2\n"),
            "DIR/netassert.yaml:6: [0].exitCode: found 2; expected 0 (it is reached) or 1 (it is not)",
        ),
        (
            test("  targetPort: 0\n"),
            "DIR/netassert.yaml:5: [0].targetPort: 0 is no port; expected a number from 1 to 65535",
        ),
        (
            test("  targetPort: 80\n  protocol: icmp\n"),
            "[0].protocol: \"icmp\" is no protocol; expected tcp or udp",
        ),
        (
            test("  targetPort: 80\n  atempts: 1\n"),
            "[0].atempts: unknown field, did you mean attempts?",
        ),
        (
            test("  targetPort: 80\n  attempts: 0\n"),
            "[0].attempts: found 0; expected a number from 1 on",
        ),
        (test("  targetPort: eighty\n"), "[0].targetPort: "),
        (test(""), "targetPort"),
        (
            test("  targetPort: 1\n") + &test("  targetPort: 2\n"),
            "[1].name: \"x\" names another test too; expected each name once",
        ),
        (
            test("  targetPort: 80\n").replace("statefulset", "service"),
            "[0].dst.k8sResource.kind: \"service\" is no kind; expected one of deployment, statefulset, daemonset, pod",
        ),
        (
            test("  targetPort: 80\n").replace("k8s\n", "aws\n"),
            "[0].type: \"aws\" is no type of test; expected k8s",
        ),
        (
            test("  targetPort: 80\n").replace(DATABASE, "{}"),
            "[0].dst: names not exactly one end; expected k8sResource or host",
        ),
        (
            test("  targetPort: 80\n").replace(src, "{host: {name: a}}"),
            "[0].src: names no workload alone; expected k8sResource",
        ),
        (
            test("  targetPort: 80\n  protocol: udp\n")
                .replace(DATABASE, "{host: {name: 192.0.2.1}}"),
            "[0].dst.host: stands with protocol udp; expected k8sResource",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(told), "{text}\n{error}");
    }
    let several = refused("k8s:\n  deployment:\n    a: {b: x, c: y}\n");
    assert_eq!(
        several.lines().count(),
        2,
        "all mistakes are told: {several}"
    );
}

/// netassert asks one cluster; a folder may have several.
#[test]
fn of_several_clusters_one_must_be_named() {
    let test = "k8s: {deployment: {shop:frontend: {shop:batch: -80}}}\n";
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/three-tier");
    let ask = |cluster: Option<&str>| {
        run_with(test, |args| {
            args.config = Some(example.clone());
            args.cluster = cluster.map(str::to_owned);
        })
    };
    let error = ask(None).err().unwrap();
    assert!(
        error.contains("--cluster must, one of east, west"),
        "{error}"
    );
    let error = ask(Some("north")).err().unwrap();
    assert!(error.contains("no cluster \"north\""), "{error}");
    let told = ask(Some("east")).unwrap().told;
    assert!(
        told.contains("east/shop/frontend -> east/shop/batch 80/tcp"),
        "{told}"
    );
}
