/** Entry of the CDK app (cdk.json); the only file of infra that touches `process`. */
import { App } from 'aws-cdk-lib';
import { parseContext } from './context.ts';
import { createInstall } from './install.ts';

const app = new App();
try {
  createInstall(app, parseContext(app.node.getAllContext()));
  app.synth();
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
