//! What each row of the fault matrix breaks in a farm.

use std::time::Duration;

use clawstead_bus::faulty::Delay;
use clawstead_state::Crash;

use super::{
    plan::{FarmPlan, Fault, Forgery},
    row::Row,
};
use crate::{
    actors::store::Death,
    dice::Dice,
    scenario::{LifePlan, StoreFault},
};

impl FarmPlan {
    #[expect(clippy::too_many_lines, reason = "one arm for each row of the matrix")]
    pub(super) fn break_things(&mut self, row: Row, dice: &mut Dice) {
        match row {
            Row::M1 => {
                let drop = dice.pick(&[0.01, 0.1, 0.5]);
                self.letters_weather.drop = drop;
                self.receipts_weather.drop = drop;
                self.troubled = self.troubled.max(dice.below(40));
            }
            Row::M2 => {
                let duplicate = dice.pick(&[0.01, 0.2, 1.0]);
                let after = dice.pick(&[Delay::None, Delay::Even(Duration::from_secs(2)), Delay::Even(Duration::from_secs(120))]);
                for weather in [&mut self.letters_weather, &mut self.receipts_weather] {
                    (weather.duplicate, weather.duplicate_after) = (duplicate, after);
                }
                if dice.often(300) {
                    self.again_after_ms = 3_600_000;
                }
            }
            Row::M3 => {
                let max = Duration::from_secs(10);
                let delay = Delay::Exponential { mean: Duration::from_millis(dice.between(50, 4_000)), max };
                self.letters_weather.delay = delay;
                self.receipts_weather.delay = delay;
            }
            Row::M4 => {
                for weather in [&mut self.letters_weather, &mut self.receipts_weather] {
                    (weather.reorder, weather.reorder_window) = (0.5, 100);
                    weather.delay = Delay::Even(Duration::from_millis(dice.between(1, 1_500)));
                }
            }
            Row::M5 => self.receipts_weather.drop = dice.pick(&[0.3, 0.9, 1.0]),
            Row::M6 => {
                self.letters_weather.duplicate = 0.3;
                self.again_after_ms = 3 * 86_400_000;
            }
            Row::M7 => self.strange(
                dice,
                &[
                    Forgery::Honest,
                    Forgery::Altered,
                    Forgery::AlteredHop,
                    Forgery::SwappedSignature,
                    Forgery::UnknownKey,
                    Forgery::RetiredKey,
                    Forgery::RevokedKey,
                    Forgery::WrongFarm,
                    Forgery::OtherAgent,
                    Forgery::Forbidden,
                    Forgery::Command,
                    Forgery::Noise,
                ],
                12,
            ),
            Row::M8 => self.strange(dice, &[Forgery::TooManyHops, Forgery::Ring, Forgery::NotToBePassedOn, Forgery::Honest], 8),
            Row::M9 => self.strange(dice, &[Forgery::Poison, Forgery::Honest], 4),
            Row::M10 => self.strange(dice, &[Forgery::UnknownMajor, Forgery::UnknownMinor, Forgery::Honest], 8),
            Row::M11 => {
                self.strange(dice, &[Forgery::TooLate, Forgery::FromTheFuture, Forgery::Honest], 6);
                // Longer than letters live.
                let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                let ms = dice.between(200_000, 400_000);
                self.faults.push((at, if dice.often(500) { Fault::CutBus(gateway, ms) } else { Fault::Pause(gateway, ms) }));
            }
            Row::M13 => {
                self.replay = true;
                if dice.often(500) {
                    self.receipts_weather.drop = 1.0;
                }
                for _ in 0..2 {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    self.faults.push((at, Fault::CutBus(gateway, dice.between(250_000, 400_000))));
                }
            }
            Row::C6 => {
                self.watch_late_ms = dice.below(3_000);
                for _ in 0..dice.between(3, 12) {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    self.faults.push((at, Fault::Watch(gateway)));
                }
                self.troubled = self.troubled.max(dice.below(150));
            }
            Row::T1 => {
                let size = i64::try_from(dice.pick(&[2_000, 2_000, 600_000])).unwrap_or(0);
                for gateway in &mut self.gateways {
                    gateway.skew_ms = dice.pick(&[size, -size, 0]);
                }
                for _ in 0..dice.below(3) {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    self.faults.push((at, Fault::Jump(gateway, dice.pick(&[2_000, -2_000, 600_000, -600_000, 30_000, -30_000]))));
                }
            }
            Row::Q1 | Row::Q2 => {
                let agents = self.agents();
                let one = dice.pick(&agents);
                for _ in 0..dice.between(20, 120) {
                    let to = if row == Row::Q1 { one } else { dice.pick(&agents) };
                    let at = i64::try_from(2_000 + dice.below(3_000)).unwrap_or(0);
                    self.letters.push((at, Forgery::Honest, to));
                }
            }
            Row::K1 => {
                for _ in 0..dice.between(1, 2) {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    self.faults.push((at, Fault::Rotate(gateway)));
                }
            }
            Row::G1 => {
                let horizon = self.horizon_ms;
                for gateway in &mut self.gateways {
                    for _ in 0..dice.below(4) {
                        gateway.lives.push(life(dice, horizon));
                    }
                }
            }
            Row::G4 => {
                for _ in 0..dice.between(1, 4) {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    self.faults.push((at, Fault::Pause(gateway, dice.pick(&[1_000, 3_000, 5_000, 10_000, 60_000]))));
                }
            }
            Row::N1 => {
                for _ in 0..dice.between(1, 4) {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    let ms = dice.pick(&[300, 1_000, 5_000, 30_000, 90_000]);
                    let fault = match dice.below(6) {
                        0 => Fault::CutCoord(gateway, ms),
                        1 => Fault::CutBus(gateway, ms),
                        2 => Fault::CutStore(gateway, ms.min(30_000)),
                        3 => Fault::Disk(gateway, disk(dice)),
                        4 => Fault::LoseMail,
                        _ => {
                            self.faults.push((at, Fault::CutBus(gateway, ms)));
                            Fault::CutCoord(gateway, ms)
                        }
                    };
                    self.faults.push((at, fault));
                }
            }
            Row::X1 => {}
        }
    }

    fn strange(&mut self, dice: &mut Dice, kinds: &[Forgery], most: u64) {
        let agents = self.agents();
        for _ in 0..dice.between(2, most) {
            let (kind, to, at) = (dice.pick(kinds), dice.pick(&agents), self.moment(dice).max(3_000));
            self.letters.push((at, kind, to));
        }
    }
}

fn disk(dice: &mut Dice) -> StoreFault {
    let count = usize::try_from(dice.between(1, 4)).unwrap_or(1);
    match dice.below(4) {
        0 => StoreFault::Full(count),
        1 => StoreFault::Away(count),
        2 => StoreFault::Busy(count),
        _ => StoreFault::LostAnswers(count),
    }
}

fn life(dice: &mut Dice, horizon: i64) -> LifePlan {
    let in_order = dice.often(250);
    LifePlan {
        length_ms: 200 + dice.below(u64::try_from(horizon).unwrap_or(1)),
        death: match dice.below(3) {
            _ if in_order => Death::Never,
            0 => Death::Never,
            1 => Death::Before(dice.between(5, 200)),
            _ => Death::After(dice.between(5, 200)),
        },
        crash: if dice.often(500) { Crash::LoseUnanswered } else { Crash::KeepUnanswered(usize::try_from(dice.between(1, 5)).unwrap_or(1)) },
        in_order,
        downtime_ms: i64::try_from(if dice.often(800) { dice.below(5_000) } else { dice.below(120_000) }).unwrap_or(0),
        sync_ms: if dice.often(500) { dice.below(30) } else { 0 },
        read_ms: if dice.often(150) { dice.below(10) } else { 0 },
    }
}
