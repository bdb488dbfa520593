import { expect, it } from 'vitest';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

it("the functions' bundle is under 1.5 MB", () => {
  const folder = new URL('../../api/dist/lambda/', import.meta.url).pathname;
  const files = readdirSync(folder);
  expect(files).toContain('lambda.mjs');
  expect(files.reduce((sum, file) => sum + statSync(join(folder, file)).size, 0)).toBeLessThan(1.5e6);
});
