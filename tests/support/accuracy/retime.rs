//! The same session, read otherwise: cut elsewhere, gathered, slower; and with fewer witnesses.

use std::time::Duration;

use orchwrap::extract::cast::{Cast, Moment};

/// Pseudo-random numbers from 1 to `below`.
fn dice(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + usize::try_from(seed >> 33).unwrap() % below
    }
}

/// Cuts every chunk at pseudo-random places; the times stay.
pub fn shredded(cast: &Cast, seed: u64) -> Cast {
    let mut next = dice(seed);
    let mut moments = Vec::new();
    for (at, moment) in &cast.moments {
        match moment {
            Moment::Output(bytes) => {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(next(40).min(rest.len()));
                    moments.push((*at, Moment::Output(piece.to_vec())));
                    rest = after;
                }
            }
            other => moments.push((*at, other.clone())),
        }
    }
    Cast { moments, ..cast.clone() }
}

/// Reads that come late and together: all output of a window at its end, or when something else happens.
pub fn bursty(cast: &Cast, window: Duration) -> Cast {
    let mut moments: Vec<(Duration, Moment)> = Vec::new();
    let mut held: Option<(Duration, Vec<u8>)> = None;
    for (at, moment) in &cast.moments {
        let over = held.as_ref().is_some_and(|(since, _)| *at >= *since + window);
        if let Some((since, bytes)) = held.take_if(|_| over || !matches!(moment, Moment::Output(_))) {
            moments.push(((since + window).min(*at), Moment::Output(bytes)));
        }
        match moment {
            Moment::Output(bytes) => held.get_or_insert((*at, Vec::new())).1.extend_from_slice(bytes),
            other => moments.push((*at, other.clone())),
        }
    }
    if let Some((since, bytes)) = held {
        moments.push((since + window, Moment::Output(bytes)));
    }
    Cast { moments, ..cast.clone() }
}

/// Everything takes `factor` times as long.
pub fn slower(cast: &Cast, factor: u32) -> Cast {
    Cast { moments: cast.moments.iter().map(|(at, m)| (*at * factor, m.clone())).collect(), ..cast.clone() }
}

/// Without the titles of the window (OSC 0 and 2).
pub fn untitled(cast: &Cast) -> Cast {
    let mut filter = Titles::default();
    let moments = cast.moments.iter().map(|(at, moment)| match moment {
        Moment::Output(bytes) => (*at, Moment::Output(filter.without(bytes))),
        other => (*at, other.clone()),
    });
    Cast { moments: moments.collect(), ..cast.clone() }
}

/// Where in a title's sequence the stream stands; what may still become one is held back.
#[derive(Default)]
struct Titles {
    held: Vec<u8>,
}

impl Titles {
    fn without(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.held.push(*byte);
            match self.held.as_slice() {
                // Perhaps the beginning of one.
                [0x1b] | [0x1b, b']'] | [0x1b, b']', b'0' | b'2'] => {}
                // Inside of one, until BEL or ST.
                [0x1b, b']', b'0' | b'2', b';', text @ ..] => {
                    if matches!(text, [.., 0x07] | [.., 0x1b, b'\\']) {
                        self.held.clear();
                    }
                }
                // The byte that disproves it may begin another.
                [.., 0x1b] => {
                    self.held.pop();
                    out.append(&mut self.held);
                    self.held.push(0x1b);
                }
                _ => out.append(&mut self.held),
            }
        }
        out
    }
}

/// Reports as they come where things go wrong: of each ten three are lost, two come twice, two up to three seconds late.
pub fn disturbed(cast: &Cast, seed: u64) -> Cast {
    let mut next = dice(seed);
    let mut moments = Vec::new();
    for (at, moment) in &cast.moments {
        let times: &[usize] = match moment {
            Moment::Reported { .. } => match next(10) {
                1..=3 => &[],
                4..=5 => &[0, next(500)],
                6..=7 => &[next(3000)],
                _ => &[0],
            },
            _ => &[0],
        };
        moments.extend(times.iter().map(|ms| (*at + Duration::from_millis(*ms as u64), moment.clone())));
    }
    in_order(moments, cast)
}

/// Without any report.
pub fn unreported(cast: &Cast) -> Cast {
    let moments = cast.moments.iter().filter(|(_, m)| !matches!(m, Moment::Reported { .. })).cloned().collect();
    Cast { moments, ..cast.clone() }
}

/// Each report once more as that of another conversation: an agent of the agent's own, a title being made, another
/// window of the same user. Only what such ones do tell: they start no session of ours, and who asks is to be heard.
pub fn echoed_elsewhere(cast: &Cast) -> Cast {
    let mut moments = cast.moments.clone();
    for (at, moment) in &cast.moments {
        let Moment::Reported { adapter, payload } = moment else { continue };
        let event = payload["hook_event_name"].as_str().unwrap_or_default();
        // A session file is one conversation's.
        if matches!(event, "" | "SessionStart" | "SessionEnd" | "PermissionRequest") {
            continue;
        }
        let mut payload = payload.clone();
        payload["session_id"] = "00000000-0000-4000-8000-000000000000".into();
        for id in ["prompt_id", "turn_id"] {
            if !payload[id].is_null() {
                payload[id] = "11111111-0000-4000-8000-000000000000".into();
            }
        }
        moments.push((*at + Duration::from_millis(20), Moment::Reported { adapter: adapter.clone(), payload }));
    }
    in_order(moments, cast)
}

fn in_order(mut moments: Vec<(Duration, Moment)>, cast: &Cast) -> Cast {
    moments.sort_by_key(|(at, _)| *at);
    Cast { moments, ..cast.clone() }
}

#[test]
fn titles_are_taken_out_wherever_the_stream_is_cut() {
    let stream = b"a\x1b]0;one\x07b\x1b[1mc\x1b]2;two\x1b\\d\x1b]7501;state=idle\x07e";
    for cut in 0..stream.len() {
        let mut titles = Titles::default();
        let mut out = titles.without(&stream[..cut]);
        out.extend(titles.without(&stream[cut..]));
        assert_eq!(out, b"ab\x1b[1mcd\x1b]7501;state=idle\x07e", "cut at {cut}");
    }
}
