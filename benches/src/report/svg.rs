//! The little of SVG that the plots need. Colours and fonts are classes: the page's style sheet
//! gives them a value for light and for dark.

use std::fmt::Write;

/// Makes text safe inside an element or an attribute.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Where a text stands relative to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// To the right of it.
    Start,
    /// Centred on it.
    Middle,
    /// To the left of it.
    End,
}

/// A drawing, in units of its own view box.
#[derive(Debug)]
pub struct Svg {
    body: String,
    width: f64,
    height: f64,
    label: String,
}

impl Svg {
    /// An empty drawing; `label` says in words what it shows.
    #[must_use]
    pub fn new(width: f64, height: f64, label: &str) -> Self {
        Self { body: String::new(), width, height, label: escape(label) }
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.body, "{element}");
    }

    /// A round mark that says `tip` when it is pointed at.
    pub fn dot(&mut self, class: &str, at: (f64, f64), radius: f64, tip: &str) {
        let ((x, y), tip) = (at, escape(tip));
        self.push(format_args!(
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius:.1}"><title>{tip}</title></circle>"#
        ));
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    /// A line through points; nothing for fewer than two.
    pub fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        if points.len() < 2 {
            return;
        }
        let mut data = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let command = if at == 0 { 'M' } else { 'L' };
            let _ = write!(data, "{command}{x:.1} {y:.1}");
        }
        self.push(format_args!(r#"<path class="{class}" d="{data}"/>"#));
    }

    /// A bar; `tip` is shown where the pointer rests.
    pub fn bar(&mut self, class: &str, at: (f64, f64), size: (f64, f64), tip: &str) {
        let ((x, y), (width, height)) = (at, size);
        let tip = escape(tip);
        self.push(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"><title>{tip}</title></rect>"#
        ));
    }

    /// Text; `y` is its base line.
    pub fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let (x, y) = at;
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.push(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    /// The element, to stand in a page.
    #[must_use]
    pub fn finish(self) -> String {
        let Self { body, width, height, label } = self;
        format!(
            "<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{label}\" \
             xmlns=\"http://www.w3.org/2000/svg\">\n{body}</svg>\n"
        )
    }
}

/// A logarithmic scale: values to places.
#[derive(Debug, Clone, Copy)]
pub struct LogScale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogScale {
    /// `low` to `high` (both above 0) lie at `from` to `to`.
    #[must_use]
    pub fn new(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = low.max(f64::MIN_POSITIVE);
        Self { low, high: high.max(low * 1.001), from, to }
    }

    /// Where a value lies; values outside lie at the end.
    #[must_use]
    pub fn place(&self, value: f64) -> f64 {
        let share = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + (self.to - self.from) * share.clamp(0.0, 1.0)
    }

    /// Round values inside, at least `few` where that is possible: powers of ten, with 2 and 5 or
    /// 3 between them if needed, or evenly spaced ones on a scale that is too short for that.
    #[must_use]
    pub fn ticks(&self, few: usize) -> Vec<f64> {
        let choices: [&[f64]; 3] = [&[1.0], &[1.0, 3.0], &[1.0, 2.0, 5.0]];
        let decades = choices.into_iter().map(|steps| self.within(steps));
        decades.into_iter().find(|ticks| ticks.len() >= few).unwrap_or_else(|| self.even(few))
    }

    fn within(&self, steps: &[f64]) -> Vec<f64> {
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        (first..=last)
            .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
            .filter(|value| *value >= self.low * 0.999 && *value <= self.high * 1.001)
            .collect()
    }

    fn even(&self, few: usize) -> Vec<f64> {
        let ideal = (self.high - self.low) / few as f64;
        let decade = 10_f64.powf(ideal.log10().floor());
        let step = [5.0, 2.0, 1.0]
            .into_iter()
            .map(|step| step * decade)
            .find(|step| *step <= ideal)
            .unwrap_or(decade);
        let first = (self.low / step).ceil() as u64;
        let last = (self.high / step).floor() as u64;
        (first..=last).map(|multiple| multiple as f64 * step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_place_values_and_find_round_ones() {
        let scale = LogScale::new(100.0, 10_000.0, 0.0, 200.0);
        assert!((scale.place(1_000.0) - 100.0).abs() < 1e-9);
        assert!((scale.place(1.0)).abs() < 1e-9);
        assert_eq!(scale.ticks(3), [100.0, 1_000.0, 10_000.0]);
        assert_eq!(scale.ticks(4), [100.0, 300.0, 1_000.0, 3_000.0, 10_000.0]);
        assert_eq!(LogScale::new(130.0, 160.0, 0.0, 1.0).ticks(3), [130.0, 140.0, 150.0, 160.0]);
    }

    #[test]
    fn nothing_that_is_written_becomes_markup() {
        let mut svg = Svg::new(10.0, 10.0, "a \"label\"");
        svg.text("t", (0.0, 0.0), Anchor::Start, "<script>&");
        let text = svg.finish();
        assert!(text.contains("&lt;script&gt;&amp;") && text.contains("a &quot;label&quot;"));
    }
}
