"""The style sheet of the page: light and dark by the reader's setting, phone to desktop, and paper.

Fonts are the system's own. The colours of the marks are variables, so that pictures follow the
scheme; text on its ground has a contrast of 4.5 or more.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fbfaf7; --card: #ffffff; --ink: #1d2025; --soft: #5c626b; --rule: #dedcd5;
  --grid: #eceae4; --accent: #14599c; --wash: #e7eff8;
  --blue: #14599c; --amber: #9a6200; --green: #2c7a4b; --red: #b3344a; --violet: #6b4fa0;
  --ring: #d97706; --bar: #c9ccd1;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #14161a; --card: #1b1e24; --ink: #e7e8ea; --soft: #a2a8b2; --rule: #343942;
    --grid: #282c34; --accent: #86b7ee; --wash: #1d2b3c;
    --blue: #86b7ee; --amber: #e3ad4f; --green: #77c295; --red: #f08a98; --violet: #b9a2ea;
    --ring: #f59e0b; --bar: #4a505b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
main, footer { max-width: 960px; margin: 0 auto; padding: 0 24px; }
header { padding: 56px 0 8px; }
.kicker { margin: 0 0 6px; color: var(--soft); font-size: 14px; }
h1 { margin: 0; font-size: 34px; line-height: 1.18; letter-spacing: -0.018em; font-weight: 650;
  text-wrap: balance; }
h2 { margin: 0 0 6px; font-size: 21px; line-height: 1.3; letter-spacing: -0.01em;
  font-weight: 650; text-wrap: balance; }
h3 { margin: 0; font-size: 15px; font-weight: 600; }
p { margin: 0 0 12px; max-width: 68ch; }
.lead { margin: 16px 0 0; font-size: 18px; line-height: 1.5; max-width: 62ch; }
.note { color: var(--soft); font-size: 14px; line-height: 1.5; }
a { color: var(--accent); text-underline-offset: 2px; }
a:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
section { padding: 40px 0 0; }
.key { display: grid; grid-template-columns: repeat(4, 1fr); margin: 32px 0 0; padding: 0;
  border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); }
.key div { padding: 16px 16px 14px; border-left: 1px solid var(--rule); }
.key div:first-child { border-left: 0; padding-left: 0; }
.key dt { color: var(--soft); font-size: 13px; line-height: 1.35; }
.key dd { margin: 4px 0 0; font-size: 26px; line-height: 1.2; font-weight: 600;
  letter-spacing: -0.015em; }
.key dd small { display: block; margin-top: 3px; color: var(--soft); font-size: 13px;
  font-weight: 400; letter-spacing: 0; line-height: 1.35; }
figure { margin: 16px 0 0; padding: 18px 18px 14px; background: var(--card);
  border: 1px solid var(--rule); border-radius: 8px; }
figcaption { margin-top: 10px; color: var(--soft); font-size: 14px; line-height: 1.5;
  max-width: 76ch; }
svg.plot { display: block; width: 100%; height: auto; }
.narrow { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 10px; padding: 0;
  list-style: none; font-size: 14px; line-height: 1.5; }
.legend svg { width: 26px; height: 12px; margin-right: 7px; vertical-align: -1px; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr));
  gap: 18px 22px; }
.panels h3 { margin-bottom: 2px; }
.molecules { display: grid; grid-template-columns: repeat(4, 1fr);
  gap: 14px; margin: 0; padding: 0; list-style: none; text-align: center; font-size: 14px;
  line-height: 1.35; }
.molecules svg { display: block; width: 100%; height: auto; }
.molecules span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 14.5px; line-height: 1.4; }
caption { padding: 0 0 8px; text-align: left; color: var(--soft); font-size: 14px; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--grid); text-align: left;
  vertical-align: baseline; font-weight: 400; }
thead th { border-bottom: 1px solid var(--rule); color: var(--soft); font-size: 13px; }
th:last-child, td:last-child { padding-right: 0; }
tbody tr:last-child > * { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.wide-cell { width: 34%; min-width: 110px; }
.facts th { width: 11em; color: var(--soft); }
td.wide-cell { vertical-align: middle; }
details { margin: 10px 0 0; font-size: 14.5px; }
summary { color: var(--accent); cursor: pointer; font-size: 14px; }
details[open] summary { margin-bottom: 8px; }
details + .note, details + p { margin-top: 12px; }
td svg.meter { display: block; overflow: visible; width: 100%; height: 18px; }
code { font: 0.92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { padding-top: 36px; padding-bottom: 56px; color: var(--soft); font-size: 14px; }
footer p { border-top: 1px solid var(--rule); padding-top: 14px; max-width: none; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  fill: var(--ink); }
svg .tick { fill: var(--soft); } svg .axis-title { fill: var(--soft); }
svg .mark-text { font-weight: 600; }
.axis { stroke: var(--soft); fill: none; } .grid { stroke: var(--grid); fill: none; }
.tolerance { stroke: var(--ink); stroke-dasharray: 5 4; fill: none; opacity: 0.75; }
.c0 { --c: var(--blue); } .c1 { --c: var(--amber); } .c2 { --c: var(--green); }
.c3 { --c: var(--red); } .c4 { --c: var(--violet); }
.curve { stroke: var(--c); stroke-width: 2; fill: none; stroke-linejoin: round; }
.d1 { stroke-dasharray: 7 4; } .d2 { stroke-dasharray: 2 3; } .d3 { stroke-dasharray: 9 3 2 3; }
.d4 { stroke-dasharray: 12 5; }
.knot { fill: var(--c); stroke: var(--card); stroke-width: 1; }
.open { fill: var(--card); stroke: var(--c); stroke-width: 1.5; }
.band { fill: var(--c); opacity: 0.16; } .interval { fill: var(--c); opacity: 0.13; }
.star { stroke: var(--c); stroke-width: 1.25; fill: none; }
.gauss { fill: var(--wash); }
.data { fill: var(--amber); opacity: 0.34; }
.reference { stroke: var(--blue); stroke-width: 2; fill: none; stroke-linejoin: round; }
.noise { stroke: var(--soft); stroke-width: 1.25; stroke-dasharray: 3 3; fill: none; }
.bar-full { fill: var(--bar); } .bar-kept { fill: var(--blue); }
.whisker { stroke: var(--blue); stroke-width: 2; fill: none; }
.of-data { stroke: var(--amber); stroke-width: 2; fill: none; }
.bond { stroke-linecap: butt; } .haze { fill: var(--card); }
.haze-line { stroke: var(--card); } .ring { fill: none; stroke: var(--ring); stroke-width: 2; }
.defs { position: absolute; width: 0; height: 0; }
@media (max-width: 700px) {
  main, footer { padding: 0 18px; }
  header { padding-top: 32px; }
  h1 { font-size: 27px; } .lead { font-size: 17px; }
  section { padding-top: 32px; }
  .wide { display: none; } .narrow { display: block; }
  .key { grid-template-columns: 1fr 1fr; }
  .key div { padding: 12px 0 12px 14px; }
  .key div:nth-child(odd) { border-left: 0; padding-left: 0; }
  .key div:nth-child(n + 3) { border-top: 1px solid var(--rule); }
  .key dd { font-size: 22px; }
  figure { margin-left: -6px; margin-right: -6px; padding: 14px 12px 12px; }
  .molecules { grid-template-columns: 1fr 1fr; }
  .facts th { width: 7.5em; }
  th, td { padding-right: 9px; }
  table { font-size: 14px; } .wide-cell { min-width: 48px; width: 20%; }
  .calls .number .note { display: block; }
  .metrics tr { display: grid; grid-template-columns: 1fr 7.4em 7.4em; column-gap: 8px;
    padding: 7px 0 3px; font-size: 13.5px;
    border-bottom: 1px solid var(--grid); }
  .metrics tbody tr:last-child { border-bottom: 0; }
  .metrics th, .metrics td { border: 0; padding: 0; }
  .metrics thead .wide-cell { display: none; }
  .metrics .wide-cell { grid-column: 1 / -1; order: 4; width: auto; padding-top: 2px; }
}
@media print {
  @page { margin: 16mm 14mm; }
  :root { --ground: #fff; --card: #fff; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  body { font-size: 9.5pt; line-height: 1.45; }
  .lead { font-size: 11pt; margin-top: 8pt; } .key { margin-top: 14pt; }
  .key div { padding: 8pt 10pt; } .key dd { font-size: 15pt; }
  .note, figcaption, caption, .legend, .molecules, .kicker { font-size: 8.5pt; }
  .key dt, .key dd small, thead th, .molecules span { font-size: 8pt; }
  table { font-size: 9pt; } th, td { padding-top: 3pt; padding-bottom: 3pt; }
  h2 { font-size: 13pt; } h3 { font-size: 9.5pt; }
  main, footer { max-width: none; padding: 0; }
  header { padding-top: 0; } h1 { font-size: 19pt; }
  section { padding-top: 16pt; } footer { padding-top: 16pt; padding-bottom: 0; }
  details:not([open]) { display: none; }
  .wide { display: block; } .narrow, .screen { display: none; }
  .key { grid-template-columns: repeat(4, 1fr); }
  .panels { grid-template-columns: repeat(3, 1fr); }
  .molecules { grid-template-columns: repeat(4, 1fr); }
  figure { margin-top: 8pt; padding: 9pt; break-inside: avoid; }
  h2, h3, section > p { break-after: avoid; break-inside: avoid; }
  section > .note { break-after: auto; } tr, li, .panels > div { break-inside: avoid; }
  .scroll { overflow: visible; }
}
"""
