/** Who may import whom (CONTRIBUTING.md). */
const trainer = (folders) => `^batch-jobs/src/(${folders})/`;
module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    { name: 'not-unresolvable', severity: 'error', from: {}, to: { couldNotResolve: true } },
    {
      name: 'contract-imports-only-zod',
      severity: 'error',
      from: { path: '^sdk/src/contract/' },
      to: { pathNot: ['^sdk/src/contract/', '^node_modules/zod'] },
    },
    {
      name: 'client-has-no-runtime-dependency',
      comment: 'The SDK imports the contract as types only, except the CLI. The build compiles @noble/hashes in.',
      severity: 'error',
      from: { path: '^sdk/src/', pathNot: '^sdk/src/(contract|cli)/' },
      to: { pathNot: '^(sdk/src/(?!cli/)|node_modules/@noble/hashes/)', dependencyTypesNot: ['core', 'type-only'] },
    },
    {
      name: 'client-uses-contract-as-types',
      severity: 'error',
      from: { path: '^sdk/src/', pathNot: '^sdk/src/(contract|cli)/' },
      to: { path: '^sdk/src/contract/', dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'leaves',
      comment: 'numeric, formats and storage import nothing of the trainer but each other below them and the errors.',
      severity: 'error',
      from: { path: trainer('numeric|storage') },
      to: {
        path: '^(batch-jobs|api|sdk)/src/',
        pathNot: ['^batch-jobs/src/(numeric|storage)/', '^batch-jobs/src/errors.ts$'],
      },
    },
    {
      name: 'formats-is-a-leaf',
      severity: 'error',
      from: { path: trainer('formats') },
      to: {
        path: '^(batch-jobs|api|sdk)/src/',
        pathNot: ['^batch-jobs/src/(formats|numeric|storage)/', '^batch-jobs/src/errors.ts$'],
      },
    },
    {
      name: 'tensorflow-only-where-tensors-are',
      severity: 'error',
      from: { path: '^(sdk|api|infra|batch-jobs)/', pathNot: trainer('engine|models|methods|training|evaluation') },
      to: { path: '@tensorflow/' },
    },
    {
      name: 'siblings-meet-in-run-job',
      comment: 'methods, exporters, data and evaluation do not import each other.',
      severity: 'error',
      from: { path: '^batch-jobs/src/(methods|exporters|data|evaluation)/' },
      to: { path: trainer('methods|exporters|data|evaluation'), pathNot: '^batch-jobs/src/$1/' },
    },
    {
      name: 'api-uses-only-storage-and-planning-of-the-trainer',
      severity: 'error',
      from: { path: '^api/src/' },
      to: { path: '^batch-jobs/src/', pathNot: '^batch-jobs/src/(storage/|planning.ts$)' },
    },
    {
      name: 'cloud-sdk-only-in-adapters',
      severity: 'error',
      from: { path: '^(sdk|api|batch-jobs)/', pathNot: '^(batch-jobs/src/storage|api/src/adapters)/' },
      to: { path: '@aws-sdk/' },
    },
    {
      name: 'planning-loads-no-engine',
      severity: 'error',
      from: { path: '^batch-jobs/src/planning.ts$' },
      to: { path: '@tensorflow/', reachable: true },
    },
    { name: 'no-utils', severity: 'error', from: {}, to: { path: '^(sdk|api|batch-jobs|infra)/.*/utils?[./]' } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '/dist/|cdk\\.out' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'] },
  },
};
