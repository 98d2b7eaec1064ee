//! Charts as SVG, by hand: bars with their spread, and lines. Readable on light and on dark ground.

use std::fmt::Write as _;

use crate::data::Spread;

pub(crate) const WIDTH: f64 = 760.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 120.0;
const BAR: f64 = 18.0;
const STEP: f64 = 28.0;
const HEAD: f64 = 44.0;

/// Colours are classes, so that a reader's preference can turn them.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-weight:600;font-size:14px}\
    .note{fill:#57606a}.grid{stroke:#d0d7de}.spread{stroke:#24292f}.ours{fill:#0969da;stroke:#0969da}\
    .other{fill:#8c959f;stroke:#8c959f}line,polyline{stroke-width:2}polyline{fill:none}.c0{stroke:#8c959f}\
    .c1{stroke:#bf8700}.c2{stroke:#0969da}.c3{stroke:#cf222e}.c4{stroke:#1a7f37}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.note{fill:#9198a1}.grid{stroke:#3d444d}.spread{stroke:#e6edf3}\
    .ours{fill:#4493f8;stroke:#4493f8}.other{fill:#656c76;stroke:#656c76}.c0{stroke:#9198a1}.c1{stroke:#d29922}\
    .c2{stroke:#4493f8}.c3{stroke:#f85149}.c4{stroke:#3fb950}}";

pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) spread: Spread,
    pub(crate) ours: bool,
}

pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
}

/// One bar under the other, the whisker from least to most.
pub(crate) fn bars(title: &str, bars: &[Bar], digits: usize) -> String {
    let most = bars.iter().map(|bar| bar.spread.most).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + value / most * (WIDTH - LEFT - RIGHT);
    let height = HEAD + STEP * bars.len() as f64 + 8.0;
    let mut out = begin(title, height);
    for (index, Bar { name, spread, ours }) in bars.iter().enumerate() {
        let top = HEAD + STEP * index as f64;
        let (middle, class) = (top + BAR / 2.0, if *ours { "ours" } else { "other" });
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{top:.0}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.0}\" y2=\"{middle:.0}\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{:.digits$}</text>",
            LEFT - 8.0,
            middle + 4.0,
            escaped(name),
            x(spread.median) - LEFT,
            x(spread.least),
            x(spread.most),
            x(spread.most) + 8.0,
            middle + 4.0,
            spread.median,
        );
    }
    out + "</svg>\n"
}

/// Panels side by side with one logarithmic scale of ordinates, and names at the right.
pub(crate) fn panels(title: &str, abscissa: &str, panels: &[Panel]) -> String {
    const PLOT: f64 = 200.0;
    const GAP: f64 = 14.0;
    let (left, right, top) = (56.0, 130.0, HEAD + 20.0);
    let points = || panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let decade = |value: f64| value.max(1.0).log10();
    let low = points().map(|(_, y)| decade(*y)).fold(f64::INFINITY, f64::min).floor();
    let high = points().map(|(_, y)| decade(*y)).fold(low + 1.0, f64::max).ceil();
    let widest = points().map(|(x, _)| *x).fold(f64::MIN_POSITIVE, f64::max);
    let width = (WIDTH - left - right - GAP * (panels.len().saturating_sub(1)) as f64) / panels.len().max(1) as f64;
    let y = |value: f64| top + PLOT * (high - decade(value)) / (high - low);
    let mut out = begin(title, top + PLOT + 48.0);
    // Writing to a String can't fail.
    for (index, Panel { title, lines }) in panels.iter().enumerate() {
        let start = left + (width + GAP) * index as f64;
        let x = |value: f64| start + value / widest * width;
        let _ = writeln!(out, "<text class=\"note\" x=\"{start:.0}\" y=\"{:.0}\">{}</text>", top - 8.0, escaped(title));
        let mut exponent = low;
        while exponent <= high {
            let (value, at) = (10_f64.powf(exponent), y(10_f64.powf(exponent)));
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{start:.0}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
                start + width
            );
            if index == 0 {
                let _ = writeln!(
                    out,
                    "<text class=\"note\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    left - 6.0,
                    at + 4.0,
                    duration(value)
                );
            }
            exponent += 1.0;
        }
        for (number, line) in lines.iter().enumerate() {
            let points: Vec<_> =
                line.points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
            let _ = writeln!(out, "<polyline class=\"c{number}\" points=\"{}\"/>", points.join(" "));
        }
        for (at, _) in lines.first().map(|line| line.points.as_slice()).unwrap_or_default() {
            let _ = writeln!(
                out,
                "<text class=\"note\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{at:.0}</text>",
                x(*at),
                top + PLOT + 18.0
            );
        }
    }
    let _ = writeln!(
        out,
        "<text class=\"note\" x=\"{left:.0}\" y=\"{:.0}\">{}</text>",
        top + PLOT + 36.0,
        escaped(abscissa)
    );
    for (number, line) in panels.first().map(|panel| panel.lines.as_slice()).unwrap_or_default().iter().enumerate() {
        let (x, y) = (WIDTH - right + 14.0, top + 12.0 + 20.0 * number as f64);
        let _ = writeln!(
            out,
            "<line class=\"c{number}\" x1=\"{x:.0}\" x2=\"{:.0}\" y1=\"{y:.0}\" y2=\"{y:.0}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            x + 16.0,
            x + 22.0,
            y + 4.0,
            escaped(&line.name)
        );
    }
    out + "</svg>\n"
}

fn begin(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\"><title>{title}</title>\
         <style>{STYLE}</style>\n<text class=\"title\" x=\"8\" y=\"22\">{title}</text>\n",
        title = escaped(title)
    )
}

/// Of microseconds that are a power of ten.
fn duration(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.0} s", us / 1e6),
        us if us >= 1e3 => format!("{:.0} ms", us / 1e3),
        us => format!("{us:.0} µs"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_medians() {
        let bar = |name: &str, median| Bar {
            name: name.to_owned(),
            spread: Spread { median, least: median, most: median },
            ours: false,
        };
        let svg = bars("a < b", &[bar("one", 1.0), bar("two", 2.0)], 1);
        assert!(svg.contains("<title>a &lt; b</title>"), "{svg}");
        let widths: Vec<f64> = svg
            .lines()
            .filter_map(|line| line.split_once("<rect")?.1.split_once("width=\"")?.1.split_once('"')?.0.parse().ok())
            .collect();
        assert_eq!(widths, [235.0, 470.0], "{svg}");
    }
}
