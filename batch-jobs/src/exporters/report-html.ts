/** Pieces that the pages of the reports are put together from: HTML that escapes what is put into it, and numbers as text. */
import { reportStyle } from './report-style.ts';

export const figure = (caption: Markup, svg: string): Markup =>
  html`<figure>
    <figcaption>${caption}</figcaption>
    ${trusted(svg)}
  </figure>`;

/** Text that is already HTML. Only `html` and `trusted` make it, so a string that reaches the page was escaped. */
export interface Markup {
  readonly markup: string;
}
type Content = string | number | false | null | undefined | Markup | readonly Markup[];

export const trusted = (markup: string): Markup => ({ markup });

export const html = (parts: TemplateStringsArray, ...values: Content[]): Markup =>
  trusted(parts.map((part, index) => part + (index < values.length ? toMarkup(values[index]) : '')).join(''));

const toMarkup = (value: Content): string => {
  if (value === null || value === undefined || value === false) return '';
  if (typeof value !== 'object') return escape(String(value));
  return 'markup' in value ? value.markup : value.map(({ markup }) => markup).join('');
};

const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const escape = (text: string): string => text.replace(/[&<>"']/g, (character) => entities[character]);

/** No-break space: a number stays with its unit. */
const space = '\u00a0';
export const grouped = (value: number): string => String(value).replace(/\B(?=(\d{3})+$)/g, space);
export const percent = (value: number): string =>
  `${value < 0 ? '−' : ''}${(100 * Math.abs(value)).toFixed(Math.abs(value) < 0.1 ? 1 : 0)}${space}%`;
export const signedPercent = (value: number): string => `${value < 0 ? '' : '+'}${percent(value)}`;
export const decimal = (value: number): string =>
  Number.isFinite(value) ? value.toFixed(Math.abs(value) < 1000 ? 2 : 0) : '–';
export const bytes = (value: number): string =>
  value < 1e9 ? `${(value / 1e6).toFixed(2)}${space}MB` : `${(value / 1e9).toFixed(2)}${space}GB`;
export const words = (name: string): string => name.replace(/[A-Z0-9]+/g, (part) => ` ${part.toLowerCase()}`);
export const fraction = (value: number): string => (Number.isInteger(1 / value) ? `1/${1 / value}` : String(value));

export const count = (value: number): string => {
  if (value < 1e6) return grouped(value);
  return value < 1e9 ? `${(value / 1e6).toFixed(2)}${space}M` : `${(value / 1e9).toFixed(2)}${space}B`;
};

/**
 * A page that needs nothing else: no script, no network, no other file.
 * @param style rules beside those of every report   @returns a whole HTML document, UTF-8, ending in a newline
 */
export const page = (title: string, body: Markup, style = ''): string =>
  html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta
          http-equiv="Content-Security-Policy"
          content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        />
        <link rel="icon" href="data:," />
        <title>${title}</title>
        <style>
          ${trusted(reportStyle + style)}
        </style>
      </head>
      <body>
        <main>
          ${body}
          <footer>Written by CherryQ. The page is complete in itself: it loads nothing and runs nothing.</footer>
        </main>
      </body>
    </html> `.markup;
