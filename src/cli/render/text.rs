//! Words holders, times and sizes as people read them.

use std::time::{Duration, UNIX_EPOCH};

use repoguard::Holder;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// A holder or waiter in one line.
pub(in crate::cli) fn who(holder: &Holder) -> String {
    let mut parts = vec![match holder.pid {
        0 => "an unknown process".to_owned(),
        pid if repoguard::program::is_pid_of_elsewhere(holder) => format!("pid {pid} of another pid namespace"),
        pid => format!("pid {pid}"),
    }];
    let user = user(holder);
    if !user.is_empty() {
        let agent = holder.agent.as_ref().map_or_else(String::new, |agent| format!(", {agent}"));
        parts.push(format!("({user}@{}{agent})", holder.host));
    }
    if !holder.command.is_empty() {
        parts.push(format!("`{}`", holder.command));
    }
    if holder.requested_ms > 0 {
        let since = holder.acquired_ms.unwrap_or(holder.requested_ms);
        parts.push(format!("since {} ({})", clock(since), duration(holder.age())));
    }
    if let Some(reason) = &holder.reason {
        parts.push(format!("for: {}", repoguard::holder::readable(reason)));
    }
    if holder.lingers {
        parts.push("(has ended; kept for those who work inside of it)".to_owned());
    }
    if holder.editor {
        parts.push("(an editor is open)".to_owned());
    }
    if let Some(pid) = holder.for_pid {
        parts.push(format!("(until pid {pid} ends)"));
    }
    if let Some(until) = holder.until_ms {
        parts.push(format!("(at the latest until {})", clock(until)));
    }
    if let Some(heirs) = &holder.inherited_by {
        parts.push(format!("({})", kept_by(holder, heirs)));
    }
    parts.join(" ")
}

/// Which processes keep the lock of a holder that has ended.
fn kept_by(holder: &Holder, heirs: &[u32]) -> String {
    let heir = |pid: &u32| match repoguard::program::command_of(*pid) {
        Some(command) => format!("pid {pid} `{command}`"),
        None => format!("pid {pid}"),
    };
    let ended = if holder.foreign { "ended" } else { "its repoguard was killed" };
    let heirs = match heirs {
        [] => "a process that this user cannot see".to_owned(),
        heirs => heirs.iter().map(heir).collect::<Vec<_>>().join(", "),
    };
    format!("{ended}, and the lock is kept by {heirs}")
}

/// The user of a holder or waiter: as the system shows its process, since anybody who may write a record can lie in it.
pub(in crate::cli) fn user(holder: &Holder) -> String {
    let recorded = &holder.user;
    match repoguard::program::user_of(holder) {
        Some(user) if recorded.split(" (USER=").next() != Some(&user) && !recorded.is_empty() => {
            format!("{user}, recorded as {recorded}")
        }
        Some(user) if recorded.is_empty() => user,
        _ => recorded.clone(),
    }
}

/// A time of day, with the date if it is another day.
pub(in crate::cli) fn clock(ms: u64) -> String {
    let time = jiff::Timestamp::try_from(UNIX_EPOCH + Duration::from_millis(ms)).unwrap_or_default();
    let zone = jiff::tz::TimeZone::system();
    let (time, now) = (time.to_zoned(zone.clone()), jiff::Timestamp::now().to_zoned(zone));
    if time.date() == now.date() { time.strftime("%H:%M:%S").to_string() } else { time.strftime("%F %T").to_string() }
}

/// A size in bytes as people say it.
pub(in crate::cli) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

/// A duration as people say it.
pub(in crate::cli) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// As much of a text as fits into so many columns.
pub(super) fn fitting(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut used = 1;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= columns
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_the_columns_it_takes() {
        assert_eq!(fitting("abc", 3), "abc");
        assert_eq!(fitting("abcd", 3), "ab…");
        assert_eq!(fitting("漢字漢字", 5), "漢字…");
        assert_eq!(fitting("abc", 0), "…");
    }

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_read_well() {
        for (ms, text) in [(300, "0.3 s"), (42_000, "42 s"), (125_000, "2 min 5 s"), (7_260_000, "2 h 1 min")] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }
}
