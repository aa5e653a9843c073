//! X.509-SVIDs of a SPIFFE Workload API, which go-spiffe's own definitions serve: two gateways and an agent
//! meet by them, roots are exchanged under their sessions, and what it does not say ends none.

#[allow(dead_code)]
#[path = "../../../tests/peers/peer.rs"]
mod peer;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    namespaces::root_or_skip,
    world::{Gateway, World, peer as configured},
};

/// A Workload API of one trust domain.
struct Issuer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Issuer {
    fn start(domain: &str) -> Self {
        let mut child = Command::new(peer::program().unwrap())
            .args(["workload-api", "-domain", domain])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut issuer = Self {
            child,
            input: input.unwrap(),
            output: BufReader::new(output.unwrap()),
        };
        issuer.says();
        issuer
    }

    fn says(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn command(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
        assert_eq!(self.says()["done"], line);
    }

    /// Issues for the gateway and the node's agent of `cluster`.
    fn of(world: &World, cluster: &str) -> Self {
        let mut issuer = Self::start(&format!("{cluster}.example"));
        for what in ["gateway/gw1", "agent/node1"] {
            let socket = socket(world, cluster, what);
            let id = format!("spiffe://{cluster}.example/landbridge/{what}");
            issuer.command(&format!("serve {socket} {id}"));
        }
        issuer
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        // An error says that it ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(world: &World, cluster: &str, what: &str) -> String {
    let name = format!("{cluster}-{}.sock", what.replace('/', "-"));
    world.path(&name).display().to_string()
}

fn configure(world: &World, cluster: &str, peers: &str, socket: &str) {
    world.configure(cluster, peers);
    let path = world.path(&format!("{cluster}.yaml"));
    let mut file = File::options().append(true).open(path).unwrap();
    writeln!(file, "svid: {{workloadApi: \"unix://{socket}\"}}").unwrap();
}

/// The agent of east's node.
struct Agent(Child);

impl Agent {
    fn start(world: &World) -> Self {
        let (state, conf) = (world.path("agent"), world.path("conf"));
        let socket = socket(world, "east", "agent/node1");
        let text = format!(
            "cluster: east\nnode: node1\nsource: {{folder: {}}}\nstateDir: {}\nuplink: up0\n\
             gateway: {{endpoint: \"172.16.1.1:4434\"}}\nsvid: {{workloadApi: \"unix://{socket}\"}}\n\
             metrics: 127.0.0.1:9465\nnameServers: []\n",
            conf.display(),
            state.display(),
        );
        let config = world.path("agent.yaml");
        fs::write(&config, text).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_landbridge-gateway"));
        let program = program.with_file_name("landbridge-agent");
        let log = File::options()
            .create(true)
            .append(true)
            .open(world.path("agent.log"));
        let child = Command::new("nsenter")
            .arg(format!(
                "--net=/run/netns/{}",
                world.namespaces.name("east-node")
            ))
            .arg(&program)
            .args(["run", "--config"])
            .arg(config)
            .env("NO_COLOR", "1")
            .stderr(log.unwrap())
            .spawn();
        Self(child.unwrap_or_else(|e| panic!("{}: {e}: cargo build --bins", program.display())))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until_agent(gateway: &Gateway<'_>) {
    gateway.until("the agent is there", |status| {
        status["nodes"][0]["connected"] == true
    });
}

/// The pins of the roots, and which is shown.
fn roots(gateway: &Gateway<'_>) -> Vec<(String, bool)> {
    let keys = gateway.ask(&json!({"op": "trust", "do": "keys"})).unwrap();
    let roots = keys.as_array().unwrap().iter();
    let roots = roots.filter(|key| key["phase"] == "workload-api");
    let roots = roots.map(|key| (key["name"].as_str().unwrap().into(), key["shown"] == true));
    roots.collect()
}

fn says(status: &Value, words: &str) -> bool {
    let problems = status["problems"].as_array();
    let mut problems = problems.into_iter().flatten().filter_map(Value::as_str);
    problems.any(|problem| problem.contains(words))
}

#[test]
fn gateways_and_agents_meet_by_a_workload_api_and_roots_rotate_under_their_sessions() {
    if !root_or_skip() || peer::program().is_none() {
        return;
    }
    let world = World::new("spire");
    for cluster in ["east", "west"] {
        fs::remove_dir_all(world.path(cluster)).unwrap();
    }
    let (mut at_east, mut at_west) = (Issuer::of(&world, "east"), Issuer::of(&world, "west"));
    // West's has authorities between; east knows its root by the pin alone.
    at_west.command("use 2");
    let gateway = |cluster| socket(&world, cluster, "gateway/gw1");
    let pins = ["east", "west"].map(|cluster| {
        configure(&world, cluster, "", &gateway(cluster));
        world.init(cluster)
    });
    configure(
        &world,
        "east",
        &configured("west", 2, &pins[1]),
        &gateway("east"),
    );
    configure(
        &world,
        "west",
        &configured("east", 1, &pins[0]),
        &gateway("west"),
    );
    let (east, west) = (world.start("east"), world.start("west"));
    let since = east.until_connected()["peers"][0]["since"].clone();
    west.until_connected();
    let agent = Agent::start(&world);
    until_agent(&east);
    assert_eq!(roots(&east), [(pins[0].clone(), true)]);
    let files = fs::read_dir(world.path("east")).unwrap();
    let mut files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(
        files.all(|name| !name.starts_with("root")),
        "no root is made here"
    );

    // Published, used, retired; each time west hears a bundle with a higher number.
    let bundle = |gateway: &Gateway<'_>| gateway.status()["peers"][0]["bundle_sequence"].as_u64();
    let mut heard = bundle(&west);
    let mut next = |what: &str| {
        let before = heard;
        west.until(what, |status| {
            status["peers"][0]["bundle_sequence"].as_u64() > before
        });
        heard = bundle(&west);
    };
    at_east.command("federate west.example");
    at_east.command("publish");
    next("published");
    assert_eq!(roots(&east).len(), 2);
    at_east.command("use");
    world.until("used", || roots(&east).contains(&(pins[0].clone(), false)));
    at_east.command("retire");
    next("retired");
    let retired = roots(&east);
    assert!(
        retired.len() == 1 && retired[0].0 != pins[0] && retired[0].1,
        "{retired:?}"
    );
    for gateway in [&east, &west] {
        let status = gateway.until_connected();
        assert_eq!(status["problems"], json!([]));
    }
    assert_eq!(
        east.status()["peers"][0]["since"],
        since,
        "one session all the time"
    );
    assert_eq!(east.status()["nodes"][0]["connected"], true);

    // Whoever meets anew does so by the new root.
    drop(agent);
    east.until("the agent is gone", |status| {
        status["nodes"][0]["connected"] == false
    });
    let agent = Agent::start(&world);
    until_agent(&east);
    west.kill();
    let west = world.start("west");
    west.until_connected();
    let since = east.until_connected()["peers"][0]["since"].clone();

    // Its roots are nobody's to exchange here, and nobody enrols here.
    let rotate = json!({"op": "trust", "do": "rotate", "key": "root", "anyway": true});
    let refused = east.ask(&rotate).unwrap();
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("those of the Workload API")
    );

    // The Workload API is lost: what was issued is kept, and nothing ends.
    drop(at_east);
    east.until("it says so", |status| {
        says(status, "the Workload API at") && says(status, "is good until")
    });
    assert_eq!(east.status()["ready"], true);
    assert_eq!(east.status()["peers"][0]["since"], since);
    assert_eq!(east.status()["nodes"][0]["connected"], true);
    // It comes back, and remembers nothing: another root, under the same sessions.
    let _at_east = Issuer::of(&world, "east");
    east.until("well again", |status| status["problems"] == json!([]));
    let anew = roots(&east);
    assert!(anew.len() == 1 && anew[0].0 != retired[0].0, "{anew:?}");
    assert_eq!(east.status()["peers"][0]["since"], since);
    west.kill();
    let west = world.start("west");
    west.until_connected();
    drop(agent);

    // Another's ID is not taken: the gateway waits, says what to do, and can be ended.
    east.terminate();
    let other = socket(&world, "east", "agent/node1");
    configure(&world, "east", &configured("west", 2, &pins[1]), &other);
    let refused = world.start("east");
    let words = "make a registration entry for spiffe://east.example/landbridge/gateway/gw1";
    world.until("it says what to do", || {
        let log = fs::read_to_string(world.path("east.log")).unwrap();
        log.contains(words) && log.contains("but spiffe://east.example/landbridge/agent/node1")
    });
    refused.terminate();
}
