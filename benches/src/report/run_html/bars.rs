//! Bars of CPU time per operation: the clients' above the device's.

use super::super::chart::WIDTH;
use super::super::svg::{Anchor, Svg};
use super::super::units::time;

/// One load.
pub(super) struct Row {
    pub(super) name: String,
    /// Nanoseconds per operation.
    pub(super) client: f64,
    /// Nanoseconds per operation, if known.
    pub(super) device: Option<f64>,
}

/// The drawing; `None` if there is nothing to draw.
pub(super) fn draw(rows: &[Row]) -> Option<String> {
    let values = rows.iter().flat_map(|row| [row.client, row.device.unwrap_or(0.0)]);
    let most = values.fold(0.0, f64::max);
    if most <= 0.0 || !most.is_finite() {
        return None;
    }
    let longest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let (left, right) = ((longest as f64 * 7.0 + 20.0).clamp(120.0, 320.0), 80.0);
    let (head, group) = (30.0, 40.0);
    let label = "CPU time per operation of clients and device";
    let mut svg = Svg::new(WIDTH, head + group * rows.len() as f64, label);
    svg.bar("fill figure c0", (left, 4.0), (14.0, 12.0), "client");
    svg.text("label", (left + 20.0, 15.0), Anchor::Start, "client");
    svg.bar("fill quietly", (left + 90.0, 4.0), (14.0, 12.0), "device");
    svg.text("label", (left + 110.0, 15.0), Anchor::Start, "device");
    let length = |ns: f64| (ns / most * (WIDTH - left - right)).max(1.0);
    for (at, row) in rows.iter().enumerate() {
        let top = head + at as f64 * group;
        svg.text("label", (left - 10.0, top + 13.0), Anchor::End, &row.name);
        let bars = [("fill figure c0", Some(row.client)), ("fill quietly", row.device)];
        for (number, (class, value)) in bars.into_iter().enumerate() {
            let Some(ns) = value else { continue };
            let y = top + number as f64 * 16.0;
            let tip = format!("{}: {}", row.name, time(ns));
            svg.bar(class, (left, y), (length(ns), 14.0), &tip);
            svg.text("tick", (left + length(ns) + 6.0, y + 11.5), Anchor::Start, &time(ns));
        }
    }
    Some(svg.finish())
}
