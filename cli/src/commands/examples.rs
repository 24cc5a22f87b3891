//! Examples under the help of commands. All of them parse, by a test.

pub(super) const UPDATE: &str = "Examples:\n  borgctl update web.bcl --plan\n  borgctl update web.bcl --arg version=v2 --watch\n  borgctl update web.bcl --canary 0-2 --min-healthy 1m --most 10%\n  borgctl update web.bcl --label zone=a --on-failure pause";
pub(super) const ROLLOUT: &str = "Examples:\n  borgctl rollout status web --watch\n  borgctl rollout resume web\n  borgctl rollout abort web";
pub(super) const ROLLOUT_STATUS: &str =
    "Examples:\n  borgctl rollout status web\n  borgctl rollout status bob/web --watch";
pub(super) const ROLLOUT_PAUSE: &str = "Example:\n  borgctl rollout pause web";
pub(super) const ROLLOUT_RESUME: &str = "Example:\n  borgctl rollout resume web --watch";
pub(super) const ROLLOUT_UNDO: &str =
    "Examples:\n  borgctl rollout undo web --watch\n  borgctl rollout abort web";
pub(super) const ROLLOUT_CLOSE: &str = "Example:\n  borgctl rollout close web";
pub(super) const ROLLBACK: &str =
    "Examples:\n  borgctl rollback web 2 --plan\n  borgctl rollback web 2 --watch";
pub(super) const SCALE: &str =
    "Examples:\n  borgctl scale web 6 --plan\n  borgctl scale web 6 --watch";
pub(super) const RESTART: &str = "Examples:\n  borgctl restart web --watch\n  borgctl restart web --tasks 0-2,7\n  borgctl restart web --label zone=a --most 1";
pub(super) const STOP: &str =
    "Examples:\n  borgctl stop web --tasks 0-2 --watch\n  borgctl stop bob/web/3";
pub(super) const START: &str =
    "Examples:\n  borgctl start web\n  borgctl start web --label zone=a --watch";
pub(super) const DRAIN: &str = "Examples:\n  borgctl drain m-1 --reason \"new kernel\" --dry-run\n  borgctl drain m-1 m-2 --reason \"new disks\" --deadline 30m --watch\n  borgctl drain --rack r7 --reason \"power\" --now\n  borgctl drain --all --rolling --batch 5% --reason \"kernel 6.12\"";
pub(super) const UNDRAIN: &str = "Examples:\n  borgctl undrain m-1\n  borgctl undrain --rack r7\n  borgctl undrain --maintenance 3";
pub(super) const DRAINS: &str =
    "Examples:\n  borgctl drains\n  borgctl drains --watch\n  borgctl --at -30m drains";
pub(super) const CRON: &str =
    "Examples:\n  borgctl cron history backup\n  borgctl cron pause backup";
pub(super) const CRON_PAUSE: &str = "Example:\n  borgctl cron pause backup";
pub(super) const CRON_RESUME: &str = "Example:\n  borgctl cron resume backup";
pub(super) const CRON_RUN: &str = "Example:\n  borgctl cron run backup";
pub(super) const CRON_HISTORY: &str =
    "Examples:\n  borgctl cron history backup\n  borgctl cron history bob/backup -o json";
pub(super) const TASK_IDS: &str = "Examples:\n  borgctl task-ids squares --filter failed\n  borgctl task-ids squares --filter running --label zone=a --format lines";
pub(super) const RERUN: &str =
    "Examples:\n  borgctl rerun squares --filter failed\n  borgctl rerun squares --tasks 0-3,7";
pub(super) const RECLAMATION: &str = "Examples:\n  borgctl reclamation\n  borgctl reclamation set medium\n  borgctl reclamation set medium hold-s=600";
pub(super) const RESOLVE: &str = "Examples:\n  borgctl resolve web\n  borgctl resolve web --tasks 0-2 --watch\n  borgctl resolve bob/web/3 -o json";
pub(super) const RESIZE: &str =
    "Examples:\n  borgctl resize room --cpu 2 --ram 512MiB\n  borgctl resize room --allocs 6";
pub(super) const HISTORY: &str = "Examples:\n  borgctl history web\n  borgctl history";
pub(super) const TOP: &str = "Examples:\n  borgctl top web --tasks 0-2\n  borgctl top --reclaimed";
pub(super) const WHY: &str = "Examples:\n  borgctl why web/0\n  borgctl why web --tasks 0-2";

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use clap::{Command, CommandFactory, Parser};

    /// Words as a shell splits them; quotes are double.
    fn words(line: &str) -> Vec<String> {
        let parts = line.split('"').enumerate();
        let split = |(at, part): (usize, &str)| -> Vec<String> {
            if at % 2 == 1 {
                return vec![part.to_owned()];
            }
            part.split_whitespace().map(str::to_owned).collect()
        };
        parts.flat_map(split).collect()
    }

    /// The examples of a command and of those below it.
    fn collect(command: &Command, found: &mut Vec<(String, Vec<String>)>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = help.lines().filter_map(|line| line.strip_prefix("  borgctl "));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        found.push((command.get_name().to_owned(), lines));
        command.get_subcommands().for_each(|below| collect(below, found));
    }

    #[test]
    fn every_example_is_of_its_command_and_parses() {
        let mut found = Vec::new();
        collect(&Cli::command(), &mut found);
        let mut examples = 0;
        for (command, lines) in &found {
            for line in lines {
                examples += 1;
                assert!(
                    line.split_whitespace().any(|word| word == command)
                        || line.contains("rollout abort"),
                    "{command}: {line}"
                );
                let words = std::iter::once("borgctl".to_owned()).chain(words(line));
                let parsed = Cli::try_parse_from(words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
        assert!(examples > 50, "{examples}");
        for wanted in [
            "update",
            "rollout",
            "status",
            "rollback",
            "scale",
            "restart",
            "stop",
            "start",
            "drain",
            "undrain",
            "drains",
            "cron",
            "task-ids",
            "rerun",
            "reclamation",
            "resolve",
            "resize",
            "history",
        ] {
            let of = found.iter().filter(|(command, _)| command == wanted);
            assert!(of.clone().any(|(_, lines)| !lines.is_empty()), "{wanted}");
        }
    }
}
