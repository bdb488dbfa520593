/** The report's style sheet: light and dark by the reader's setting, phone to print, system fonts only. */
export const reportStyle = `
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2026; --soft: #5a6472; --rule: #dfe3e8; --panel: #f5f6f8;
  --cherry: #c2143c; --plain: #7b8794; --second: #2c6e9b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e6e9ed; --soft: #9aa5b1; --rule: #313840; --panel: #1c2127;
    --cherry: #ff6b86; --plain: #8794a2; --second: #6bb5e6;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; letter-spacing: -0.01em; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 3rem 0 0.35rem; }
p { margin: 0.35rem 0 0; max-width: 46rem; }
.kind { color: var(--soft); margin: 0 0 0.35rem; font-size: 0.9rem; }
.lead { font-size: 1.2rem; line-height: 1.45; margin-top: 0.9rem; }
.soft, figcaption, caption { color: var(--soft); font-size: 0.9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.75rem; margin: 1.6rem 0 0; }
.tiles > div { background: var(--panel); border-radius: 0.5rem; padding: 0.8rem 1rem; }
.tiles dt { color: var(--soft); font-size: 0.85rem; }
.tiles dd { margin: 0; font-size: 1.6rem; line-height: 1.3; font-weight: 600; white-space: nowrap; font-variant-numeric: tabular-nums; }
.tiles dd + dd { white-space: normal; font-size: 0.85rem; font-weight: 400; color: var(--soft); }
.tiles .won { color: var(--cherry); }
.scroll { overflow-x: auto; margin-top: 0.9rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 0.95rem; }
caption { text-align: left; padding: 0 0 0.4rem; }
th, td { padding: 0.5rem 0.7rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 500; font-size: 0.85rem; vertical-align: bottom; }
tbody th { font-weight: 500; overflow-wrap: anywhere; }
tbody th small { display: block; font-weight: 400; color: var(--soft); }
td { white-space: nowrap; }
.dense { font-size: 0.85rem; }
.dense th, .dense td { padding-top: 0.28rem; padding-bottom: 0.28rem; }
.dense tbody th { font-weight: 400; min-width: 11rem; }
.job th, .job td { color: var(--cherry); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1.6rem 2rem; margin-top: 1.2rem; }
figure { margin: 0; min-width: 0; }
figcaption { margin-bottom: 0.3rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-weight: 600; }
figure svg { display: block; width: 100%; max-width: 33rem; height: auto; overflow: visible; --plot-background: var(--paper); }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.4rem; list-style: none; margin: 0.8rem 0 0; padding: 0; font-size: 0.9rem; }
.legend li::before {
  content: ""; display: inline-block; width: 0.65em; height: 0.65em; border-radius: 50%; background: var(--swatch); margin-right: 0.5em;
}
details { margin-top: 1.1rem; border-top: 1px solid var(--rule); padding-top: 0.6rem; }
summary { cursor: pointer; font-weight: 500; }
summary:focus-visible { outline: 2px solid var(--second); outline-offset: 3px; }
ul.notes { padding-left: 1.1rem; margin: 0.5rem 0 0; max-width: 46rem; }
ul.notes li { margin: 0.35rem 0; }
footer { margin-top: 3rem; padding-top: 0.8rem; border-top: 1px solid var(--rule); color: var(--soft); font-size: 0.85rem; }
@media (max-width: 30rem) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.4rem; }
  .lead { font-size: 1.08rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  th, td { padding-left: 0.35rem; padding-right: 0.35rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --panel: #f3f3f3; --cherry: #b00f35; --plain: #777; --second: #1f5d87; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure, .tiles > div, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  .charts { grid-template-columns: 1fr 1fr; }
  .tiles { grid-template-columns: repeat(5, 1fr); gap: 0.4rem; }
  .tiles dd { font-size: 1.2rem; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
`;
