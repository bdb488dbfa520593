/** Entry of `npm run cost`, run in the root. */
import { readFileSync, writeFileSync } from 'node:fs';
import { costPage } from './cost-page.ts';

const { context } = JSON.parse(readFileSync('cdk.json', 'utf8')) as { context: Record<string, unknown> };
writeFileSync('infra/cost.md', await costPage(context));
