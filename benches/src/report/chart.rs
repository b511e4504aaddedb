//! Curves over two axes, with titles and units.

use super::svg::{Anchor, LogScale, Svg};

/// Width of every drawing, in its own units.
pub(super) const WIDTH: f64 = 760.0;

/// Colours that are told apart in light and dark; further lines repeat them with dashes.
const COLOURS: usize = 6;

/// The classes of line number `at`.
pub(super) fn class_of(at: usize) -> String {
    format!("figure c{} d{}", at % COLOURS, (at / COLOURS) % 3)
}

/// A point of a curve.
#[derive(Debug, Clone)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// Where.
    pub y: f64,
    /// Drawn as a ring instead of a dot: not to be trusted.
    pub hollow: bool,
    /// What it says when it is pointed at.
    pub tip: String,
}

/// A curve.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Its classes: colour and dashes.
    pub class: String,
    /// Ascending by `x`.
    pub points: Vec<Point>,
}

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From 0.
    Linear,
    /// Equal ratios are equally far apart; values must be above 0.
    Log,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it shows, with the unit.
    pub title: String,
    /// How.
    pub scale: Scale,
    /// A value as a label.
    pub label: fn(f64) -> String,
    /// Where labels stand; round values if it is empty.
    pub ticks: Vec<f64>,
}

/// A drawing of curves.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it shows, in words.
    pub label: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The curves.
    pub curves: Vec<Curve>,
}

/// An axis with its place on the drawing.
struct Placed {
    scale: Scale,
    log: LogScale,
    high: f64,
    from: f64,
    to: f64,
}

impl Placed {
    fn new(axis: &Axis, values: &[f64], from: f64, to: f64) -> Self {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(0.0, f64::max);
        let log = LogScale::new(low * 0.85, high * 1.15, from, to);
        Self { scale: axis.scale, log, high: high * 1.05, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Log => self.log.place(value),
            Scale::Linear => {
                self.from + (self.to - self.from) * (value / self.high).clamp(0.0, 1.0)
            }
        }
    }

    fn ticks(&self, axis: &Axis) -> Vec<f64> {
        match self.scale {
            _ if !axis.ticks.is_empty() => axis.ticks.clone(),
            Scale::Log => self.log.ticks(4),
            Scale::Linear => {
                let ideal = self.high / 5.0;
                let decade = 10_f64.powf(ideal.log10().floor());
                let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
                let step = steps.into_iter().find(|step| *step >= ideal).unwrap_or(ideal);
                let last = (self.high / step).floor() as u32;
                (0..=last).map(|multiple| f64::from(multiple) * step).collect()
            }
        }
    }
}

impl Chart {
    /// The drawing; `None` if there is no point.
    #[must_use]
    pub fn draw(&self) -> Option<String> {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let is_fine = |point: &Point| {
            let fine =
                |scale, value: f64| value.is_finite() && (scale == Scale::Linear || value > 0.0);
            fine(self.x.scale, point.x) && fine(self.y.scale, point.y)
        };
        let xs: Vec<f64> = points().filter(|point| is_fine(point)).map(|point| point.x).collect();
        let ys: Vec<f64> = points().filter(|point| is_fine(point)).map(|point| point.y).collect();
        if xs.is_empty() || ys.iter().all(|y| *y <= 0.0) || xs.iter().all(|x| *x <= 0.0) {
            return None;
        }
        let names: Vec<&str> = self.curves.iter().map(|curve| curve.name.as_str()).collect();
        let mut svg = Svg::new(WIDTH, 352.0 + legend_height(&names), &self.label);
        let entries: Vec<(&str, &str)> =
            self.curves.iter().map(|curve| (curve.name.as_str(), curve.class.as_str())).collect();
        let top = legend(&mut svg, &entries) + 26.0;
        let (left, right, bottom) = (76.0, WIDTH - 24.0, top + 270.0);
        let x = Placed::new(&self.x, &xs, left, right);
        let y = Placed::new(&self.y, &ys, bottom, top);
        self.axes(&mut svg, (&x, &y));
        for curve in &self.curves {
            let fine: Vec<&Point> = curve.points.iter().filter(|point| is_fine(point)).collect();
            let places: Vec<(f64, f64)> =
                fine.iter().map(|point| (x.place(point.x), y.place(point.y))).collect();
            svg.path(&format!("curve {}", curve.class), &places);
            for (point, at) in fine.iter().zip(places) {
                let ring = if point.hollow { "ring" } else { "dot" };
                svg.dot(&format!("{ring} {}", curve.class), at, 3.6, &point.tip);
            }
        }
        Some(svg.finish())
    }

    fn axes(&self, svg: &mut Svg, (x, y): (&Placed, &Placed)) {
        for value in y.ticks(&self.y) {
            let at = y.place(value);
            svg.line("grid", (x.from, at), (x.to, at));
            svg.text("tick", (x.from - 8.0, at + 4.0), Anchor::End, &(self.y.label)(value));
        }
        let mut free_from = f64::NEG_INFINITY;
        for value in x.ticks(&self.x) {
            let at = x.place(value);
            svg.line("grid", (at, y.to), (at, y.from));
            let label = (self.x.label)(value);
            let half = label.chars().count() as f64 * 3.6;
            if at - half >= free_from {
                svg.text("tick", (at, y.from + 20.0), Anchor::Middle, &label);
                free_from = at + half + 6.0;
            }
        }
        svg.line("axis", (x.from, y.from), (x.to, y.from));
        let middle = f64::midpoint(x.from, x.to);
        svg.text("tick", (middle, y.from + 44.0), Anchor::Middle, &self.x.title);
        svg.text("tick", (4.0, y.to - 10.0), Anchor::Start, &self.y.title);
    }
}

/// How many entries of a legend fit into one line.
fn columns(names: &[&str]) -> usize {
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    match longest {
        0..=17 => 4,
        18..=27 => 3,
        _ => 2,
    }
}

/// The height of a legend with these names.
pub(super) fn legend_height(names: &[&str]) -> f64 {
    names.len().div_ceil(columns(names)) as f64 * 22.0
}

/// Samples of curves with their names, given with their classes; where it ends.
pub(super) fn legend(svg: &mut Svg, entries: &[(&str, &str)]) -> f64 {
    let names: Vec<&str> = entries.iter().map(|(name, _)| *name).collect();
    let columns = columns(&names);
    let width = WIDTH / columns as f64;
    for (at, (name, class)) in entries.iter().enumerate() {
        let x = (at % columns) as f64 * width + 4.0;
        let y = (at / columns) as f64 * 22.0 + 12.0;
        svg.path(&format!("curve {class}"), &[(x, y), (x + 30.0, y)]);
        svg.text("label", (x + 37.0, y + 4.0), Anchor::Start, name);
    }
    legend_height(&names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Chart {
        let axis = |scale| Axis {
            title: "what <it> is".to_owned(),
            scale,
            label: |value| format!("{value:.0}"),
            ticks: Vec::new(),
        };
        let point = |(x, y): &(f64, f64)| Point { x: *x, y: *y, hollow: *x > 5.0, tip: "t".into() };
        let points = points.iter().map(point).collect();
        let curve = Curve { name: "a".to_owned(), class: class_of(0), points };
        Chart {
            label: "l".to_owned(),
            x: axis(Scale::Linear),
            y: axis(Scale::Log),
            curves: vec![curve],
        }
    }

    #[test]
    fn every_point_is_drawn_and_axes_have_titles() {
        let svg = chart(&[(1.0, 10.0), (5.0, 100.0), (10.0, 100_000.0)]).draw().unwrap();
        assert_eq!(
            (svg.matches("class=\"dot").count(), svg.matches("class=\"ring").count()),
            (2, 1)
        );
        assert_eq!(svg.matches("what &lt;it&gt; is").count(), 2);
        assert!(svg.contains(">10<") && !svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn nothing_and_impossible_values_are_not_drawn() {
        assert!(chart(&[]).draw().is_none());
        assert!(chart(&[(0.0, 0.0)]).draw().is_none());
        let svg = chart(&[(1.0, 10.0), (2.0, 0.0), (3.0, f64::NAN), (f64::INFINITY, 1.0)]).draw();
        assert_eq!(svg.unwrap().matches("class=\"dot").count(), 1);
    }

    #[test]
    fn linear_axes_begin_at_nothing_and_have_round_labels() {
        let axis = &chart(&[]).x;
        let placed = Placed::new(axis, &[120.0, 470.0], 0.0, 100.0);
        assert_eq!(placed.ticks(axis), [0.0, 100.0, 200.0, 300.0, 400.0]);
        assert!(placed.place(0.0).abs() < 1e-9 && placed.place(1e9) <= 100.0);
    }
}
