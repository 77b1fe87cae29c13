from airflow.sdk import dag, task


@dag(schedule=None)
def hello():
    @task
    def greet(params=None):
        return f"hello, {params.get('name', 'world')}"

    greet()


hello()
