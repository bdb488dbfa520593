/** Comma-separated values as RFC 4180 has them: quoted cells may hold commas, line ends, and quotes written twice. */
import { InputError } from '../errors.ts';

export interface CsvRow {
  readonly cells: readonly string[];
  /** Line that the row begins on, counted from 1. */
  readonly line: number;
}

/** @param path names the file in errors   @throws InputError `invalid_csv` */
export function* csvRows(text: string, path: string): Generator<CsvRow> {
  let line = 1;
  for (let at = 0; at < text.length;) {
    const first = line;
    const cells: string[] = [];
    for (let open = true; open;) {
      const cell = text[at] === '"' ? quotedCell(text, at, path, line) : plainCell(text, at);
      cells.push(cell.value);
      for (const character of cell.value) if (character === '\n') line++;
      at = cell.end;
      open = text[at] === ',';
      if (open) at++;
    }
    if (text.startsWith('\r\n', at)) at++;
    if (at < text.length && text[at] !== '\n') {
      throw new InputError(
        'invalid_csv',
        `Line ${line} of ${path} has ${JSON.stringify(text.slice(at, at + 20))} after a quoted cell. ` +
          'A quote within a cell is written twice.',
        path,
      );
    }
    at++;
    line++;
    if (cells.length > 1 || cells[0] !== '') yield { cells, line: first };
  }
}

function plainCell(text: string, start: number): { value: string; end: number } {
  let end = start;
  while (end < text.length && text[end] !== ',' && text[end] !== '\n' && !text.startsWith('\r\n', end)) end++;
  return { value: text.slice(start, end), end };
}

function quotedCell(text: string, start: number, path: string, line: number): { value: string; end: number } {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 2)) {
    if (text[end + 1] !== '"') return { value: text.slice(start + 1, end).replaceAll('""', '"'), end: end + 1 };
  }
  throw new InputError(
    'invalid_csv',
    `Line ${line} of ${path} has a cell whose quote never closes: ${JSON.stringify(text.slice(start, start + 40))}.`,
    path,
  );
}
