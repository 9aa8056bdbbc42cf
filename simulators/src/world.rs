//! What all devices of a fleet share: the seed, the start, and the weather.

use std::f64::consts::TAU;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tarn_schemas::UnixMicros;

/// The world that a fleet measures. A function of the seed and the start.
#[derive(Clone, Debug)]
pub struct World {
    seed: u64,
    start: UnixMicros,
    tag: String,
}

impl World {
    /// A world that starts at `start`.
    pub fn new(seed: u64, start: UnixMicros) -> Self {
        Self {
            seed,
            start,
            tag: tag(seed, start),
        }
    }

    /// The time base: no reading that isn't late is older.
    pub fn start(&self) -> UnixMicros {
        self.start
    }

    /// Four characters that start the name of every device, so that fleets don't share devices.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Random numbers of device `index`, apart from those of all others.
    pub fn rng(&self, index: u32) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(u64::from(index) + 1);
        rng
    }

    /// Hour of the day in UTC, with fraction.
    pub fn hour(&self, at: UnixMicros) -> f64 {
        const DAY: i64 = 86_400_000_000;
        at.0.rem_euclid(DAY) as f64 / 3.6e9
    }

    /// Outdoor temperature in °C: coldest at four in the morning.
    pub fn outdoor_celsius(&self, at: UnixMicros) -> f64 {
        12.0 - 6.0 * ((self.hour(at) - 4.0) / 24.0 * TAU).cos()
    }

    /// How likely it is that somebody moves about in the house: 0 to 1.
    pub fn activity(&self, at: UnixMicros) -> f64 {
        match self.hour(at) {
            hour if hour < 6.0 => 0.03,
            hour if hour < 9.0 => 0.6,
            hour if hour < 16.0 => 0.25,
            hour if hour < 22.5 => 0.7,
            _ => 0.15,
        }
    }
}

fn tag(seed: u64, start: UnixMicros) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut hash = splitmix(seed ^ splitmix(start.0.cast_unsigned()));
    let digit = |_| {
        let index = hash % DIGITS.len() as u64;
        hash /= DIGITS.len() as u64;
        char::from(DIGITS.get(index as usize).copied().unwrap_or(b'a'))
    };
    (0..4).map(digit).collect()
}

/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_tell_fleets_apart() {
        let tags: std::collections::HashSet<_> = (0..100)
            .flat_map(|seed| (0..10).map(move |start| tag(seed, UnixMicros(start * 1_000_000))))
            .collect();
        assert!(tags.len() > 990, "{}", tags.len());
        assert_eq!(tag(1, UnixMicros(2)), tag(1, UnixMicros(2)));
    }

    #[test]
    fn days_have_a_curve() {
        let world = World::new(1, UnixMicros(0));
        let at_hour = |hour: i64| world.outdoor_celsius(UnixMicros(hour * 3_600_000_000));
        assert!((at_hour(4) - 6.0).abs() < 0.01 && (at_hour(16) - 18.0).abs() < 0.01);
        assert_eq!(at_hour(5), at_hour(29));
    }
}
