//! Measuring: floors, latency histograms, load loops, and reports for the terminal and for HTML.
