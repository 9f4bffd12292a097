"""How the report looks: quiet, readable, by the reader's light or dark setting, on paper too."""

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --card: #f6f7f7; --ink: #1c2326; --faint: #5c676c; --line: #cfd6d8;
  --blue: #2166ac; --green: #14806a; --accent: #1b7f8c; --bad: #b5382a; }
@media (prefers-color-scheme: dark) { :root { --page: #14191b; --card: #1c2326; --ink: #e6ebec; --faint: #9aa7ab;
  --line: #3a464a; --blue: #7db4ea; --green: #54c2a4; --accent: #4fb3bf; --bad: #ef8475; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 0 0 .5rem; }
section { margin-top: 2.75rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
p, li { max-width: 46rem; }
p { margin: .5rem 0 1rem; }
.lede { font-size: 1.08rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .75rem; margin-top: 1.5rem; }
.tile { background: var(--card); border-left: 3px solid var(--line); padding: .75rem 1rem; border-radius: 2px; }
.tile.good { border-color: var(--green); } .tile.bad { border-color: var(--bad); }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile.bad b { color: var(--bad); }
.tile span, small { color: var(--faint); font-size: .85rem; }
figure { margin: 1.25rem 0; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; font-family: inherit; }
.scroll { overflow-x: auto; margin: 0 0 1.5rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--faint); white-space: nowrap; }
th, td { padding: .4rem 1.1rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.number { text-align: right; white-space: nowrap; }
td small { display: block; }
.mark { font-weight: 600; } .mark.good { color: var(--green); } .mark.bad { color: var(--bad); }
.timeline { padding-left: 2rem; } .timeline li { padding: .2rem 0 .2rem .35rem; }
.timeline li::marker { color: var(--faint); font-variant-numeric: tabular-nums; }
.timeline time { display: inline-block; min-width: 4rem; color: var(--faint); font-variant-numeric: tabular-nums; }
.timeline span { display: block; padding-left: 4.25rem; color: var(--faint); font-size: .92rem; }
@media print { main { max-width: none; padding: 0; } section, figure, tr { break-inside: avoid; } }
"""
