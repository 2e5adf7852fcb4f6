//! Writes the picture as SVG, for a light and a dark background.

use std::{
    fmt::Display,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use plotters::{
    coord::types::RangedCoordf64,
    prelude::{
        Cartesian2d, Color, Cross, DrawingArea, IntoDrawingArea, IntoLogRange, LogCoord,
        PathElement, Polygon, Rectangle, SVGBackend,
    },
    style::text_anchor::HPos,
};

use crate::{
    picture::{
        axis,
        bins::{self, Bin, Summary},
        legend::{self, BAND, SHADE},
        theme::{BODY, Failure, Font, HEADING, Root, THEMES, Theme},
        updates::Update,
    },
    stats::{millis, to_f64},
};

/// Twice the intended size, because the backend rounds coordinates to whole units. All lengths
/// below are in these units.
const SIZE: (u32, u32) = (1800, 1190);
pub(crate) const LEFT: i32 = 120;
const RIGHT: i32 = 1770;
/// Right end of the number of failed requests.
const FAILED: i32 = 1350;
/// Top and bottom of both plots.
const PLOTS: [(i32, i32); 2] = [(296, 636), (748, 1088)];
/// Half the size of the mark of failed requests.
pub(crate) const MARK: i32 = 7;
/// Minimum width of a column of marks.
const COLUMN_MIN: i32 = 16;
/// Distance of the marks in a column.
const MARK_DISTANCE: usize = 20;

type Plot<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, LogCoord<f64>>>;

/// What is drawn.
pub(crate) struct Picture {
    pub length: Duration,
    pub clients: usize,
    pub workers: usize,
    pub panels: [Panel; 2],
}

/// One run.
pub(crate) struct Panel {
    pub title: &'static str,
    pub summary: Summary,
    pub bins: Vec<Bin>,
    /// With the number of requests that failed during or after each.
    pub updates: Vec<(Update, usize)>,
}

/// Writes one file per theme and returns their paths.
pub(crate) fn write(picture: &Picture, directory: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |path: &Path, error: &dyn Display| format!("{}: {error}", path.display());
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    let write = |theme: &Theme| {
        let path = directory.join(format!("update-{}.svg", theme.name));
        let svg = Drawing { picture, theme }.svg().map_err(|error| failed(&path, &error))?;
        fs::write(&path, svg).map_err(|error| failed(&path, &error))?;
        Ok(path)
    };
    THEMES.iter().map(write).collect()
}

struct Drawing<'a> {
    picture: &'a Picture,
    theme: &'a Theme,
}

impl Drawing<'_> {
    fn svg(&self) -> Result<String, Failure> {
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&self.theme.background)?;
        legend::draw(self.picture, self.theme, &root)?;
        let latencies = axis::range(self.picture.panels.iter().flat_map(|panel| &panel.bins));
        for (panel, (top, bottom)) in self.picture.panels.iter().zip(PLOTS) {
            let times = 0.0..self.picture.length.as_secs_f64();
            let pixels = (LEFT..RIGHT, bottom..top);
            let plot: Plot<'_> = root.apply_coord_spec(Cartesian2d::new(
                times,
                latencies.clone().log_scale(),
                pixels,
            ));
            self.heading(&root, panel, top)?;
            self.shades(&root, &plot, panel)?;
            self.axes(&root, &plot, &latencies)?;
            self.latencies(&plot, panel)?;
            self.updates(&root, &plot, panel)?;
            self.failures(&root, &plot, panel)?;
        }
        let font = Font { anchor: HPos::Center, ..self.theme.font(BODY) };
        font.write(&root, "Time (s)", (LEFT.midpoint(RIGHT), PLOTS[1].1 + 80))?;
        root.present()?;
        drop(root);
        Ok(svg)
    }

    /// Writes a panel's title and figures above its plot.
    fn heading(&self, root: &Root<'_>, panel: &Panel, top: i32) -> Result<(), Failure> {
        let Summary { requests, failed, p50, p99, longest } = panel.summary;
        let y = top - 18;
        let font = Font { color: self.theme.text, bold: true, ..self.theme.font(HEADING) };
        font.write(root, panel.title, (LEFT, y))?;
        let color = if failed > 0 { self.theme.failed } else { self.theme.text };
        let font = Font { color, anchor: HPos::Right, ..font };
        font.write(root, &format!("{failed} of {requests} requests failed"), (FAILED, y))?;
        let [p50, p99, longest] = [p50, p99, longest].map(millis);
        let times = format!("p50 {p50:.0}, p99 {p99:.0}, max {longest:.0} ms");
        let font = Font { anchor: HPos::Right, ..self.theme.font(BODY) };
        font.write(root, &times, (RIGHT, y))
    }

    /// Draws the grid and the labels of both axes.
    fn axes(
        &self,
        root: &Root<'_>,
        plot: &Plot<'_>,
        latencies: &Range<f64>,
    ) -> Result<(), Failure> {
        let length = self.picture.length;
        for latency in axis::latencies(latencies) {
            let line = vec![(0.0, latency), (length.as_secs_f64(), latency)];
            plot.draw(&PathElement::new(line, self.theme.grid.stroke_width(2)))?;
            let (x, y) = plot.map_coordinate(&(0.0, latency));
            let font = Font { anchor: HPos::Right, ..self.theme.font(BODY) };
            font.write(root, &latency.to_string(), (x - 12, y + 16))?;
        }
        let Range { start: top, end: bottom } = plot.get_y_axis_pixel_range();
        for second in axis::seconds(length) {
            let (x, _) = plot.map_coordinate(&(f64::from(second), latencies.start));
            let font = Font { anchor: HPos::Center, ..self.theme.font(BODY) };
            font.write(root, &second.to_string(), (x, bottom + 40))?;
        }
        let font = Font { anchor: HPos::Center, upward: true, ..self.theme.font(BODY) };
        font.write(root, "Latency (ms, log scale)", (42, top.midpoint(bottom)))
    }

    /// Shades the time that each update takes.
    fn shades(&self, root: &Root<'_>, plot: &Plot<'_>, panel: &Panel) -> Result<(), Failure> {
        let Range { start: top, end: bottom } = plot.get_y_axis_pixel_range();
        for (update, _) in &panel.updates {
            let [start, end] = [update.start, update.end.min(self.picture.length)]
                .map(|at| plot.map_coordinate(&(at.as_secs_f64(), 1.0)).0);
            let shade = self.theme.muted.mix(SHADE).filled();
            root.draw(&Rectangle::new([(start, top), (end, bottom)], shade))?;
        }
        Ok(())
    }

    /// Draws a line at the start of each update, with its duration and failures.
    fn updates(&self, root: &Root<'_>, plot: &Plot<'_>, panel: &Panel) -> Result<(), Failure> {
        let Range { start: top, end: bottom } = plot.get_y_axis_pixel_range();
        for (update, failed) in &panel.updates {
            let (x, _) = plot.map_coordinate(&(update.start.as_secs_f64(), 1.0));
            let line = vec![(x, top), (x, bottom)];
            root.draw(&PathElement::new(line, self.theme.muted.stroke_width(3)))?;
            let color = if *failed > 0 { self.theme.failed } else { self.theme.text };
            let font = Font { color, ..self.theme.font(BODY) };
            let duration = update.duration().as_secs_f64();
            let text = format!("{duration:.1} s, {failed} failed");
            font.write(root, &text, (x + 12, top + 36))?;
        }
        Ok(())
    }

    /// Marks the times at which requests failed.
    fn failures(&self, root: &Root<'_>, plot: &Plot<'_>, panel: &Panel) -> Result<(), Failure> {
        let Range { start: top, end: bottom } = plot.get_y_axis_pixel_range();
        let style = self.theme.failed.stroke_width(4);
        let x = |index| plot.map_coordinate(&(start_of(index), 1.0)).0;
        for run in bins::runs(&panel.bins, |bin| bin.failed > 0) {
            let (start, width) = (x(run.start), x(run.end) - x(run.start));
            let columns = (width / COLUMN_MIN).max(1);
            for x in (0..columns).map(|column| start + width * (2 * column + 1) / (2 * columns)) {
                for y in (top + 70..bottom - MARK).step_by(MARK_DISTANCE) {
                    root.draw(&Cross::new((x, y), MARK, style))?;
                }
            }
        }
        Ok(())
    }

    /// Draws the band from the median to the slowest request, and the median.
    fn latencies(&self, plot: &Plot<'_>, panel: &Panel) -> Result<(), Failure> {
        for run in bins::runs(&panel.bins, |bin| bin.latency.is_some()) {
            let median = steps(&panel.bins, &run, |(median, _)| median);
            let slowest = steps(&panel.bins, &run, |(_, slowest)| slowest);
            let outline: Vec<(f64, f64)> =
                slowest.into_iter().chain(median.iter().rev().copied()).collect();
            plot.draw(&Polygon::new(outline, self.theme.latency.mix(BAND)))?;
            plot.draw(&PathElement::new(median, self.theme.latency.stroke_width(4)))?;
        }
        Ok(())
    }
}

/// Returns the corners of a line that is level within each bin.
fn steps(bins: &[Bin], run: &Range<usize>, value: impl Fn((f64, f64)) -> f64) -> Vec<(f64, f64)> {
    let corners = run.clone().filter_map(|index| {
        let latency = value(bins[index].latency?);
        Some([(start_of(index), latency), (start_of(index + 1), latency)])
    });
    corners.flatten().collect()
}

/// Returns the seconds at which a bin starts.
fn start_of(index: usize) -> f64 {
    to_f64(index as u64) * bins::WIDTH.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(latency: Option<(f64, f64)>, failed: usize) -> Bin {
        Bin { latency, failed }
    }

    fn picture() -> Picture {
        let second = Duration::from_secs(1);
        let summary = |failed| Summary {
            requests: 1234,
            failed,
            p50: second / 100,
            p99: second / 50,
            longest: second / 20,
        };
        let update = |end| Update { start: second, end, content: "one" };
        let steady = vec![bin(Some((8.0, 20.0)), 0); 20];
        let mut broken = steady.clone();
        broken[10..14].fill(bin(None, 5));
        Picture {
            length: 2 * second,
            clients: 8,
            workers: 2,
            panels: [
                Panel {
                    title: "one",
                    summary: summary(0),
                    bins: steady,
                    updates: vec![(update(second * 3 / 2), 0)],
                },
                Panel {
                    title: "two & three",
                    summary: summary(20),
                    bins: broken,
                    updates: vec![(update(second * 7 / 5), 20)],
                },
            ],
        }
    }

    #[test]
    fn picture_has_titles_units_and_failures() {
        let picture = picture();
        let [light, dark] =
            THEMES.map(|theme| Drawing { picture: &picture, theme: &theme }.svg().unwrap());
        for text in [
            "20 of 1234 requests failed",
            "0.5 s, 0 failed",
            "0.4 s, 20 failed",
            "Latency (ms, log scale)",
            "Time (s)",
            "sans-serif",
        ] {
            assert!(light.contains(text), "{text} is missing: {light}");
        }
        assert!(light.contains("#FFFFFF") && !dark.contains("#FFFFFF"));
    }

    #[test]
    fn bands_stop_where_no_request_was_answered() {
        let picture = picture();
        let svg = Drawing { picture: &picture, theme: &THEMES[0] }.svg().unwrap();
        assert_eq!(svg.matches("<polygon").count(), 3);
    }

    #[test]
    fn picture_is_well_formed_xml() {
        let picture = picture();
        for theme in &THEMES {
            let svg = Drawing { picture: &picture, theme }.svg().unwrap();
            let mut open = Vec::new();
            for tag in svg.split('<').skip(1) {
                let (tag, text) = tag.split_once('>').unwrap();
                assert!(
                    !tag.contains('&')
                        && text.matches('&').count() == text.matches("&amp;").count()
                );
                match tag.strip_prefix('/') {
                    Some(name) => assert_eq!(open.pop(), Some(name)),
                    None if tag.ends_with('/') => {}
                    None => open.push(tag.split(' ').next().unwrap()),
                }
            }
            assert!(open.is_empty(), "not closed: {open:?}");
        }
    }

    #[test]
    fn steps_are_level_within_a_bin() {
        let bins = [bin(Some((1.0, 2.0)), 0), bin(Some((3.0, 4.0)), 0)];
        let expected = [(0.0, 2.0), (0.1, 2.0), (0.1, 4.0), (0.2, 4.0)];
        assert_eq!(steps(&bins, &(0..2), |(_, slowest)| slowest), expected);
    }
}
