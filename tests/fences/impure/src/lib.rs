//! What a pure crate must not do. `scripts/test-fences` expects clippy to refuse exactly the lines
//! that end in `// refused`.

use std::collections::{BTreeMap, HashMap, HashSet};

/// Clocks and waiting.
pub fn clocks() {
    let begin = std::time::Instant::now(); // refused
    let _ = begin.elapsed(); // refused
    let _ = std::time::SystemTime::now(); // refused
    std::thread::sleep(std::time::Duration::ZERO); // refused
}

/// The world outside.
pub fn world() {
    let _ = std::fs::read("x"); // refused
    let _ = std::fs::File::open("x"); // refused
    let _ = std::net::UdpSocket::bind("127.0.0.1:0"); // refused
    let _ = std::net::TcpStream::connect("127.0.0.1:1"); // refused
    let _ = std::process::Command::new("true"); // refused
    let _ = std::env::var("HOME"); // refused
    let _ = std::thread::spawn(|| ()); // refused
    println!("x"); // refused
    eprintln!("x"); // refused
}

/// Hash maps may be looked into, not walked through.
pub fn order(map: &HashMap<u8, u8>, set: &HashSet<u8>) -> usize {
    let mut sum = 0;
    for (key, _) in map { // refused
        sum += usize::from(*key);
    }
    sum += map.iter().count(); // refused
    sum += map.keys().count(); // refused
    sum += map.values().count(); // refused
    sum += set.iter().count(); // refused
    sum + map.len() + usize::from(map.get(&1).is_some())
}

/// What they do all day.
pub fn fine(map: &BTreeMap<u8, u8>, now: std::time::Duration) -> usize {
    map.iter().count() + now.as_secs() as usize
}
