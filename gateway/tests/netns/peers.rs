//! A peer may stand in the configuration file, in an object, or in both.

use serde_json::json;

use crate::{
    namespaces::root_or_skip,
    world::{World, peer},
};

fn object(cluster: &str, i: u8, pin: Option<&str>) -> String {
    let pin = pin.map_or(String::new(), |pin| format!(", rootPin: \"{pin}\""));
    format!(
        "apiVersion: landbridge.io/v1alpha1\nkind: FederationPeer\nmetadata: {{name: {cluster}}}\n\
         spec: {{cluster: {cluster}, endpoints: [\"192.0.2.{i}:4433\"]{pin}}}\n"
    )
}

#[test]
fn an_object_needs_a_pin_unless_the_file_has_it() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("peers");
    let pins = ["east", "west"].map(|cluster| world.init(cluster));
    // East knows west by the object alone, which has no pin at first. West's file says all, and its
    // object repeats only a part.
    world.configure("east", "");
    world.write("east/peer.yaml", &object("west", 2, None));
    world.configure("west", &peer("east", 1, &pins[0]));
    world.write("west/peer.yaml", &object("east", 1, None));

    let (east, west) = (world.start("east"), world.start("west"));
    let words = json!(["peer west: it has neither a root pin nor a bundle endpoint"]);
    east.until("the pin is missing", |status| status["problems"] == words);
    assert_eq!(east.status()["peers"], json!([]));
    west.until("only east is not reached", |status| {
        status["peers"][0]["connected"] == false && status["problems"] == json!([])
    });

    world.write("east/peer.yaml", &object("west", 2, Some(&pins[1])));
    let told = east.until_connected();
    assert_eq!(told["problems"], json!([]));
    west.until_connected();
}
