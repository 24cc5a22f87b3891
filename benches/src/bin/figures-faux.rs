//! The figures of a cell in virtual time: forks, loads, and where the time of a task's life goes.
//! `BORG_FIGURES` names some of them, by the beginnings of their names and separated by commas.

use borg_benches::Error;
use borg_benches::faux::{day, fork, life, month, questions, resident_mib};
use borg_benches::figures::{figure, load, progress, step, wanted};
use borg_benches::packing::data;
use borg_benches::scheduling::filled;
use borg_fauxmaster::sources::borg_like::Mix;
use borg_scheduler::Config;

/// 10,000 machines: the median cell of the Borg paper (section 2.2).
const MACHINES: u32 = 10_000;
/// 100,000 machines: ten times that, 1,500,000 tasks.
const MANY: u32 = 100_000;
/// Tasks that arrive each minute in a cell of the Borg paper (section 3.4).
const A_MINUTE: f64 = 10_000.0;
const DAY_MINUTES: u64 = 24 * 60;
/// Placements that the lives of tasks are measured over.
const PLACEMENTS: u64 = 200_000;

fn main() -> Result<(), Error> {
    let config = Config::default();
    if wanted(&["fork_ms", "load_10k_s", "life", "fit_live_10k_s", "check_live_10k_s"]) {
        let (mut cell, mut timed) = filled(MACHINES, Mix::BORG, config)?;
        progress(&format!("load {}; {} tasks placed", load(), cell.placed()));
        if wanted(&["fork_ms", "load_10k_s"]) {
            let found = fork::measure(&cell, &timed.scheduler, config)?;
            figure("faux.fork_ms", found.fork_ms, "ms");
            figure("faux.fork_copy_ms", found.copy_ms, "ms");
            figure("faux.fork_mib", found.fork_mib, "MiB");
            figure("faux.load_10k_s", found.read_s + found.know_s, "s");
            figure("faux.load_10k_read_s", found.read_s, "s");
            figure("faux.afresh_10k_s", found.afresh_s, "s");
        }
        if wanted(&["fit_live_10k_s", "check_live_10k_s"]) {
            let asked = questions::ask(&cell.state.encode())?;
            figure("faux.fit_live_10k_s", asked.fit_s, "s");
            figure("faux.check_live_10k_s", asked.check_s, "s");
        }
        if wanted(&["life"]) {
            let life = life::measure(&mut cell, &mut timed, Mix::BORG, PLACEMENTS)?;
            figure("faux.life_us", life.total_us(), "us");
            figure("faux.life_pass_us", life.pass_us, "us");
            figure("faux.life_follow_us", life.follow_us, "us");
            figure("faux.life_submit_us", life.submit_us, "us");
            figure("faux.life_place_us", life.place_us, "us");
            figure("faux.life_up_us", life.up_us, "us");
            figure("faux.life_end_us", life.end_us, "us");
            figure("faux.life_events_per_s", life.events_per_s(), "1/s");
        }
    }
    if wanted(&["day_10k_s", "events_per_s"]) {
        let day = day::measure(MACHINES, A_MINUTE, DAY_MINUTES, |minute| {
            step(&format!("minute {minute} of {DAY_MINUTES}"));
        })?;
        progress(&format!("load {}; {:.0} tasks a minute", load(), day.tasks_a_minute));
        figure("faux.day_10k_s", day.took_s, "s");
        figure("faux.events_per_s", day.events_per_s(), "1/s");
    }
    if wanted(&["compact_10k_s"]) {
        let (found, took_s) =
            questions::compacting(MACHINES, |seed| step(&format!("compacted with seed {seed}")))?;
        progress(&format!("load {}; {found:?}", load()));
        figure("faux.compact_10k_s", took_s, "s");
    }
    if wanted(&["google2011_s", "google2011_rss_mib"]) {
        month()?;
    }
    if wanted(&["rss_100k_mib"]) {
        let before = resident_mib()?;
        let held = filled(MANY, Mix::BORG, config)?;
        figure("faux.rss_100k_mib", resident_mib()? - before, "MiB");
        drop(held);
    }
    Ok(())
}

fn month() -> Result<(), Error> {
    let Some(dir) = data("google2011") else {
        progress("the Google trace of 2011 is not there: its month is not replayed");
        return Ok(());
    };
    let month = month::measure(&dir, |hour, hours| step(&format!("hour {hour} of {hours}")))?;
    progress(&format!("load {}; {} placements", load(), month.counts.placements));
    figure("faux.google2011_s", month.took_s, "s");
    figure("faux.google2011_rss_mib", month.peak_mib, "MiB");
    Ok(())
}
